"""The frame of the report: structure and style of one self-contained page."""

from string import Template

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root {
  --paper: #ffffff; --ink: #1c2024; --muted: #5c6670; --line: #dfe3e8; --soft: #f4f6f8;
  --accent: #0072b2; --yes: #00724f; --no: #a63d00; --open: #6b5900; --absent: #5c6670;
  --yes-soft: #dff3ea; --no-soft: #fbe5d8; --open-soft: #fbf1cc; --absent-soft: #e9ecef;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --ink: #e6e9ec; --muted: #9aa5b1; --line: #30363d; --soft: #1d2126;
    --accent: #6fc1f2; --yes: #7fe0b5; --no: #ffb088; --open: #f0dc82; --absent: #aab4be;
    --yes-soft: #10382a; --no-soft: #472211; --open-soft: #3d3410; --absent-soft: #2a3036;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body {
  margin: 0 auto; padding: 1.5rem 1.1rem 4rem; max-width: 60rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.6 system-ui, "Segoe UI", "DejaVu Sans", sans-serif;
}
h1 { font-size: 1.9rem; line-height: 1.2; margin: .4em 0 .5em; }
h2 { font-size: 1.35rem; margin: 2.6em 0 .6em; padding-bottom: .25em;
  border-bottom: 2px solid var(--line); }
h3 { font-size: 1.02rem; margin: 1.8em 0 .4em; line-height: 1.4; }
p { margin: .7em 0; max-width: 46rem; }
a { color: var(--accent); text-decoration-thickness: 1px; text-underline-offset: 2px; }
code { font: .88em ui-monospace, "DejaVu Sans Mono", monospace; background: var(--soft);
  padding: .1em .35em; border-radius: 4px; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; margin: 1.3rem 0 0;
  padding: .7rem 0; border-block: 1px solid var(--line); font-size: .93rem; }
.note, figcaption, caption { color: var(--muted); font-size: .88rem; line-height: 1.5; }
.aside { border-left: 4px solid var(--accent); background: var(--soft);
  padding: .8em 1em; font-size: .93rem; max-width: none; }
.scroll { overflow-x: auto; margin: 1em 0; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums;
  min-width: 100%; }
caption { text-align: left; padding: 0 0 .5em; font-weight: 600; color: var(--ink); }
th, td { text-align: right; padding: .35em .5em; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
thead th { background: var(--soft); font-weight: 600; line-height: 1.3; vertical-align: bottom; }
table:not(.statistics):not(.pairs) td { white-space: nowrap; }
table.pairs { min-width: 0; }
table.pairs th { font-weight: 600; color: var(--muted); white-space: nowrap; padding-left: 0; }
table.pairs td { text-align: left; overflow-wrap: anywhere; }
table.statistics th:nth-child(2), table.statistics td:nth-child(2),
table.numbers th:nth-child(2), table.numbers td:nth-child(2) { text-align: right; }
table.statistics td:first-child { min-width: 15rem; }
figure { margin: 2em 0 2.6em; }
figure img { width: 100%; height: auto; display: block; background: #ffffff; padding: .8rem;
  border: 1px solid var(--line); border-radius: 6px; }
figcaption { margin-top: .7em; }
figcaption b { color: var(--ink); }
.links { white-space: nowrap; }
.claim { border: 1px solid var(--line); border-radius: 8px; padding: .2em 1.1em .8em;
  margin: 1.1em 0; }
.claim h3 { margin: .9em 0 .5em; display: flex; gap: .7em; }
.number { flex: none; display: inline-grid; place-items: center; width: 1.7em; height: 1.7em;
  border-radius: 50%; background: var(--soft); font-size: .88em; color: var(--muted); }
.verdict { margin: .8em 0 .2em; }
.badge { display: inline-block; padding: .08em .6em; border-radius: 999px; font-size: .85em;
  font-weight: 600; white-space: nowrap; }
.yes { color: var(--yes); background: var(--yes-soft); }
.no { color: var(--no); background: var(--no-soft); }
.open { color: var(--open); background: var(--open-soft); }
.absent { color: var(--absent); background: var(--absent-soft); }
details summary { cursor: pointer; color: var(--accent); }
@media (max-width: 40rem) {
  body { padding: 1rem .8rem 3rem; }
  h1 { font-size: 1.5rem; }
  figure img { padding: .2rem; }
  .claim { padding: .1em .7em .6em; }
}
@media print {
  :root { --paper: #fff; --ink: #000; --muted: #444; --line: #bbb; --soft: #f2f2f2;
    --accent: #000; }
  body { max-width: none; font-size: 10pt; padding: 0; }
  nav { display: none; }
  figure, tr, .verdict { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; }
}
</style>
</head>
<body>
<header>
<h1>$title</h1>
$facts
<nav aria-label="Contents">$contents</nav>
</header>
<main>
$body
</main>
</body>
</html>
""")
