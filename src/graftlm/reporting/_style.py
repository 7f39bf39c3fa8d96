"""How the report looks."""

STYLE = """
:root { --ink: #1c1f24; --soft: #5d6470; --paper: #fff; --line: #dfe3e8; --wash: #f5f7f9; --accent: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #9aa2ad; --paper: #15181c; --line: #2f353c; --wash: #1d2126; --accent: #56b4e9; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
header p { margin: 0; color: var(--soft); }
.kind { text-transform: uppercase; letter-spacing: .08em; font-size: .78rem; }
h1 { margin: .1rem 0 .2rem; font-size: 1.9rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 2.6rem 0 .7rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); font-size: 1.2rem; }
.verdict { margin: 1.4rem 0 0; padding: 1rem 1.2rem; border-left: 4px solid var(--accent); background: var(--wash);
  font-size: 1.08rem; border-radius: 0 6px 6px 0; }
section > p { color: var(--soft); font-size: .92rem; margin: .5rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.numbers td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 9.5rem; }
td.text { text-align: left; white-space: normal; min-width: 16rem; overflow-wrap: anywhere; }
.texts th { text-align: left; } .texts td { text-align: left; vertical-align: top; }
tr.alike td:first-child { font-weight: 600; }
tr.alike td:first-child::before { content: "●"; color: var(--accent); margin-right: .45em; }
.wrong { color: #d55e00; } .right { color: #009e73; }
details { margin: .35rem 0; }
summary { cursor: pointer; overflow-wrap: anywhere; }
pre { margin: .4rem 0; padding: .7rem .9rem; overflow-x: auto; background: var(--wash); border-radius: 6px;
  font-size: .82rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.figure { width: 100%; overflow: hidden; }
@media (max-width: 40rem) {
  body { padding: 1rem .9rem 3rem; } h1 { font-size: 1.45rem; } .verdict { font-size: 1rem; padding: .8rem .9rem; }
  th, td { padding: .34rem .45rem; } td.text { min-width: 9.5rem; }
}
@media print {
  :root { --ink: #000; --soft: #444; --paper: #fff; --line: #bbb; --wash: #f4f4f4; }
  body { max-width: none; padding: 0; font-size: 11pt; } section { break-inside: avoid-page; }
  table { font-size: 9pt; } .wide { overflow: visible; }
}
"""
