/* Reads vectors (size u8, then size int8 logits) and writes the margin of each as one byte. */
#include "cg_model.h"

#include <stdio.h>

int main(void) {
    int8_t logits[255];
    int size;
    while ((size = getchar()) != EOF) {
        if (fread(logits, 1, (size_t)size, stdin) != (size_t)size) {
            return 1;
        }
        putchar(cg_margin(logits, (size_t)size));
    }
    return 0;
}
