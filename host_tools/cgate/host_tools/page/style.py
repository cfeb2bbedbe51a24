"""The look of the report: one accent, figures in columns, light and dark, phone and desk."""

CSS = """
:root {
  color-scheme: light dark;
  --page: #f7f6f3; --card: #ffffff; --text: #1d2126; --soft: #5d656e; --line: #e2e0da;
  --track: #ebe9e4; --quiet: #a9afb6; --accent: #0d7377; --accent-text: #0b6367;
  --on-accent: #ffffff; --good: #2b7a3f; --bad: #b3261e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131619; --card: #1b1f24; --text: #e4e7ea; --soft: #9aa3ad; --line: #2c3238;
    --track: #282e34; --quiet: #5f6974; --accent: #4db6ac; --accent-text: #6cc7be;
    --on-accent: #0d1516; --good: #79c58b; --bad: #f2938c;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 .35rem;
  text-wrap: balance; }
h2 { font-size: 1.12rem; letter-spacing: -0.005em; margin: 0 0 .25rem; }
h3 { font-size: .9rem; margin: 1.5rem 0 .6rem; }
p { margin: 0 0 1rem; max-width: 48rem; }
.soft, .note { color: var(--soft); }
.note { font-size: .9rem; }
header { margin-bottom: 1.75rem; }
header p { margin: 0; }
section {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 1.4rem 1.5rem 1.5rem; margin-top: 1.1rem;
}
.num, td.n, th.n, .tile b, .bar .v { font-variant-numeric: tabular-nums; }
code, .mono { font: .86em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }

.tiles { display: grid; grid-template-columns: repeat(3, 1fr); gap: .9rem; }
.tile {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1rem 1.1rem;
}
.tile span { display: block; color: var(--soft); font-size: .84rem; line-height: 1.4; }
.tile b {
  display: block; font-size: 1.7rem; font-weight: 620; line-height: 1.25; letter-spacing: -.02em;
}
.tile.key b { color: var(--accent-text); }
.tile.good b { color: var(--good); } .tile.bad b, .bad { color: var(--bad); }

.bars { display: grid; gap: .5rem; }
.bar {
  display: grid; grid-template-columns: minmax(7.5rem, 12rem) 1fr minmax(8.2rem, auto); gap: .9rem;
  align-items: center; font-size: .92rem;
}
.bar .v { text-align: right; white-space: nowrap; }
.bar small { font-size: .86em; }
.bar .v small { color: var(--soft); font-size: .86em; }
.track { height: 10px; border-radius: 5px; background: var(--track); overflow: hidden; }
.fill { height: 100%; border-radius: 5px; background: var(--accent); width: calc(var(--x) * 100%); }
.fill.quiet { background: var(--quiet); }

.scroll { overflow-x: auto; margin: 0 -.25rem; padding: 0 .25rem; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; }
th { text-align: left; font-weight: 500; color: var(--soft); font-size: .82rem; }
th, td { padding: .4rem .75rem .4rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
tr:last-child > td, tr:last-child > th[scope=row] { border-bottom: 0; }
th[scope=row] {
  color: var(--text); font-size: inherit; position: sticky; left: 0; background: var(--card);
}
.idx { display: inline-block; min-width: 1.4em; margin-right: .6em; text-align: right;
  color: var(--soft); font-variant-numeric: tabular-nums; }
td.n, th.n { text-align: right; }
td:last-child, th:last-child { padding-right: 0; }
.pair { min-width: 9rem; width: 22%; }
.pair .track { height: 6px; margin: 2px 0; }

dl {
  display: grid; grid-template-columns: 9.5rem 1fr; gap: .5rem 1rem; margin: 0; font-size: .9rem;
}
dl.wide { grid-template-columns: 16rem 1fr; }
dt { font-weight: 500; } dd { margin: 0; color: var(--soft); max-width: 42rem; }

.heat td { padding: 1px; border: 0; text-align: center; min-width: 2.9rem; }
.heat td div {
  padding: .32rem .2rem; border-radius: 4px; font-variant-numeric: tabular-nums; font-size: .8rem;
  background: color-mix(in srgb, var(--accent) calc(var(--x) * 100%), var(--track));
}
.heat td div.hot { color: var(--on-accent); }
.heat th { border: 0; padding: .2rem .7rem .2rem 0; }
.heat thead th { text-align: center; padding: .2rem .3rem; }
.heat thead th:first-child { text-align: left; padding-left: 0; }
.heat .all { padding-right: .8rem; } .heat .all div { font-weight: 600; }

.chart { display: block; width: 100%; overflow: visible; margin: .9rem 0 .6rem; }
.chart text, .chart .tick { font-size: 12px; fill: var(--text); }
.chart text { paint-order: stroke; stroke: var(--card); stroke-width: 3px; stroke-linejoin: round; }
.chart .tick, .chart .soft { fill: var(--soft); }
.chart .narrow { display: none; }
.chart .tick { font-size: 11px; font-variant-numeric: tabular-nums; }
.chart .strong, .chart .name { font-weight: 600; }
.chart .cost { fill: var(--accent); }
.chart .macs { fill: none; stroke: var(--quiet); stroke-width: 1.2; }
.chart .scratch { fill: var(--track); stroke: var(--accent); stroke-width: 1; }
.chart .axis, .chart .zero { stroke: var(--quiet); }
.chart .grid { stroke: var(--line); }
.chart .mean { stroke: var(--text); stroke-width: 1.2; stroke-dasharray: 5 4; }
.chart .at { stroke: var(--text); stroke-width: 1.2; }
.chart .p95 { stroke-dasharray: 2 3; }
.chart .worst { stroke: var(--bad); stroke-dasharray: 6 4; }
.mark { fill: var(--card); stroke: var(--text); stroke-width: 1.6; }
.mark.body { fill: var(--accent); stroke: var(--accent); }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .2rem 0 .4rem;
  font-size: .84rem; color: var(--soft); }
.legend span { display: inline-flex; align-items: center; gap: .4rem; }
.sample { width: 16px; height: 16px; }
.swatch { width: .85em; height: .6em; background: var(--accent); }
.swatch.hollow, .fill.hollow { background: none; border: 1.2px solid var(--quiet); }
.swatch.scratch { background: var(--track); border: 1px solid var(--accent); }

.verdict { border-left: 5px solid var(--quiet); margin: 0 0 1.1rem; }
.verdict.wins { border-left-color: var(--good); } .verdict.loses { border-left-color: var(--bad); }
.verdict p:last-child { margin-bottom: 0; }
.say { font-size: 1.12rem; line-height: 1.45; }

.bars.tight { gap: .3rem; overflow-wrap: anywhere; }
.bars.tight .bar { grid-template-columns: 9rem 1fr 11.5rem; }
.track.open { overflow: visible; position: relative; }
.whisker { position: absolute; top: -2px; height: 14px; left: calc(var(--a) * 100%);
  width: calc((var(--b) - var(--a)) * 100%); border: solid var(--text); border-width: 0 1.5px;
  background: linear-gradient(var(--text), var(--text)) center / 100% 1.5px no-repeat; }
details { margin-top: 1rem; } summary { cursor: pointer; font-size: .9rem; color: var(--soft); }
.after { margin: .7rem 0 0; }

.cards { display: grid; grid-template-columns: repeat(6, 1fr); gap: .8rem; }
.card { font-size: .82rem; line-height: 1.4; min-width: 0; }
.card img {
  display: block; width: 100%; aspect-ratio: 1; border-radius: 6px; image-rendering: pixelated;
  border: 1px solid var(--line); margin-bottom: .4rem;
}
.card .num { white-space: nowrap; }
.route { display: flex; flex-wrap: wrap; gap: 3px; margin-top: .3rem; }
th .route { flex-wrap: nowrap; margin: 0; }
.route i { width: 11px; height: 11px; border-radius: 3px; border: 1.5px solid var(--quiet); }
.route i.on { background: var(--accent); border-color: var(--accent); }
footer { margin-top: 1.6rem; font-size: .84rem; color: var(--soft); overflow-wrap: anywhere; }

@media (max-width: 46rem) {
  main { padding: 1.5rem .9rem 3rem; }
  .tiles { grid-template-columns: 1fr 1fr; gap: .7rem; }
  .tile { padding: .85rem .9rem; }
  .tile b { font-size: 1.4rem; }
  section { padding: 1.1rem 1rem 1.15rem; }
  .bar { grid-template-columns: 1fr auto; gap: .15rem .8rem; }
  .bar .track { grid-column: 1 / -1; grid-row: 2; }
  .bars.tight .bar { grid-template-columns: 1fr auto; font-size: .82rem; }
  .bars.tight .bar span { white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
  .card .route { gap: 2px; } .card .route i { width: 10px; height: 10px; }
  .chart .wide { display: none; } .chart .narrow { display: inline; }
  .cards { grid-template-columns: repeat(3, 1fr); }
  dl, dl.wide { grid-template-columns: 1fr; gap: .1rem; } dd { margin-bottom: .6rem; }
}
@media print { body { background: #fff; } section, .tile { break-inside: avoid; } }
"""
