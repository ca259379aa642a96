"""A picture as one HTML page: the drawing, and details of what the pointer or the focus is on."""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING, Final

from flowbridge.cli.graph_svg import svg

if TYPE_CHECKING:
    from flowbridge.cli.graph_model import Picture

_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{name}</title>
<style>
:root {{ --page: #ffffff; --text: #1c2430; --dim: #5b6675; --line: #d9dee6; --side: #f7f8fa; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --page: #14181f; --text: #e6eaf0; --dim: #9aa5b4; --line: #2c3542; --side: #1a2029; }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0; height: 100vh; display: grid; grid-template: auto 1fr / 1fr 320px; background: var(--page);
  color: var(--text); font: 14px/1.45 system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif; }}
header {{ grid-column: 1 / 3; padding: 12px 20px; border-bottom: 1px solid var(--line); display: flex; gap: 16px;
  align-items: baseline; }}
h1 {{ font-size: 17px; margin: 0; }}
header p {{ margin: 0; color: var(--dim); flex: 1; }}
button {{ font: inherit; color: inherit; background: var(--side); border: 1px solid var(--line); border-radius: 6px;
  padding: 2px 10px; cursor: pointer; }}
main {{ overflow: auto; }}
aside {{ border-left: 1px solid var(--line); background: var(--side); padding: 16px 20px; overflow: auto; }}
aside h2 {{ font-size: 14px; margin: 0 0 10px; overflow-wrap: anywhere; }}
dl {{ margin: 0; }}
dt {{ color: var(--dim); font-size: 12px; }}
dd {{ margin: 0 0 8px; overflow-wrap: anywhere; white-space: pre-wrap; }}
svg [data-key] {{ cursor: pointer; outline: none; }}
svg.picking .vertex, svg.picking .arrow {{ opacity: .28; }}
svg.picking .picked {{ opacity: 1; }}
svg.fb .arrow path.wide {{ stroke: transparent; stroke-width: 14; }}
@media (max-width: 720px) {{ body {{ grid-template: auto 1fr auto / 1fr; }} header {{ grid-column: 1; }}
  aside {{ border-left: 0; border-top: 1px solid var(--line); max-height: 40vh; }} }}
</style>
</head>
<body>
<header><h1>{name}</h1><p>{about}</p>
<span><button type="button" data-zoom="0.8" aria-label="smaller">&minus;</button>
<button type="button" data-zoom="1.25" aria-label="larger">+</button>
<button type="button" data-zoom="0">fit</button></span></header>
<main>{drawing}</main>
<aside aria-live="polite"><h2>{counts}</h2><dl><dd>Point at a node or an edge; click to keep it.</dd></dl></aside>
<script type="application/json" id="details">{details}</script>
<script>
{script}
</script>
</body>
</html>
"""

_SCRIPT: Final = """
const parts = JSON.parse(document.getElementById('details').textContent);
const svg = document.querySelector('svg'), main = document.querySelector('main');
const heading = document.querySelector('aside h2'), list = document.querySelector('dl');
const groups = new Map([...svg.querySelectorAll('[data-key]')].map(g => [g.dataset.key, g]));
const first = [heading.textContent, list.innerHTML];
let kept = null;
for (const g of svg.querySelectorAll('.arrow')) {          // a thin line is hard to hit
  const wide = g.querySelector('path').cloneNode(); wide.setAttribute('class', 'wide'); g.append(wide);
}
function show(key) {
  for (const g of svg.querySelectorAll('.picked')) g.classList.remove('picked');
  svg.classList.toggle('picking', key !== null);
  if (key === null) { heading.textContent = first[0]; list.innerHTML = first[1]; return; }
  const part = parts[key];
  heading.textContent = key;
  list.replaceChildren(...Object.entries(part.details).flatMap(([name, value]) => {
    const dt = document.createElement('dt'), dd = document.createElement('dd');
    dt.textContent = name; dd.textContent = value; return [dt, dd];
  }));
  for (const near of [key, ...part.near]) groups.get(near)?.classList.add('picked');
}
for (const [key, g] of groups) {
  g.addEventListener('pointerenter', () => { if (kept === null) show(key); });
  g.addEventListener('pointerleave', () => { if (kept === null) show(null); });
  g.addEventListener('focus', () => show(key));
  g.addEventListener('blur', () => show(kept));
  g.addEventListener('click', event => { event.stopPropagation(); kept = kept === key ? null : key; show(key); });
}
main.addEventListener('click', () => { kept = null; show(null); });
const width = svg.width.baseVal.value, height = svg.height.baseVal.value;
let scale = 1;
function resize(wanted) {
  scale = Math.min(8, Math.max(.05, wanted));
  svg.setAttribute('width', width * scale); svg.setAttribute('height', height * scale);
}
const fit = () => Math.min(main.clientWidth / width, main.clientHeight / height);
resize(Math.min(1, Math.max(.6, fit())));                  // whole if it stays readable
for (const button of document.querySelectorAll('[data-zoom]')) button.addEventListener('click', () => {
  const factor = Number(button.dataset.zoom);
  resize(factor ? scale * factor : fit());
});
""".strip()


def page(picture: Picture) -> str:
    """The page: one file, nothing loaded from elsewhere."""
    near: dict[str, list[str]] = {vertex.key: [] for vertex in picture.vertices}
    parts: dict[str, dict[str, object]] = {}
    for arrow in picture.arrows:
        near[arrow.source] += [arrow.key, arrow.target]
        near[arrow.target] += [arrow.key, arrow.source]
        parts[arrow.key] = {"details": arrow.details, "near": [arrow.source, arrow.target]}
    parts |= {vertex.key: {"details": vertex.details, "near": near[vertex.key]} for vertex in picture.vertices}
    # "</script>" inside the data would end it, whatever the quotes around it.
    details = json.dumps(parts, ensure_ascii=False).replace("<", "\\u003c")
    return _PAGE.format(
        name=escape(picture.name),
        about=escape(picture.description),
        drawing=svg(picture, page=True),
        counts=f"{len(picture.vertices):,} nodes, {len(picture.arrows):,} edges",
        details=details,
        script=_SCRIPT,
    )
