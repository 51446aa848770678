"""The words of the report: HTML, style and script as text. Whatever comes from a file is escaped here."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from .fields import clean

STYLE = """
:root{color-scheme:light dark;--ink:#16191d;--muted:#59616b;--back:#f6f7f9;--card:#fff;--edge:#d9dde2;--accent:#0b5fa5;--bad:#a3320b}
@media (prefers-color-scheme:dark){:root{--ink:#e8eaed;--muted:#a4abb3;--back:#14171a;--card:#1d2125;--edge:#353b42;--accent:#6cb2f0;--bad:#ff9a73}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main,header,footer{max-width:1240px;margin:0 auto;padding:0 20px}
header{padding-top:28px}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 6px}
h2{font-size:1.2rem;margin:34px 0 10px}
h3{font-size:1rem;margin:22px 0 6px}
p{margin:6px 0}
.muted,footer{color:var(--muted);font-size:.9rem}
.note{display:inline-block;margin:4px 0;border:1px solid var(--edge);border-radius:4px;padding:1px 8px;font-weight:600}
.card{background:var(--card);border:1px solid var(--edge);border-radius:8px;padding:14px;overflow-x:auto}
.controls{display:flex;flex-wrap:wrap;gap:12px 22px;align-items:center;margin-bottom:12px}
.controls label{font-weight:600}
select,button{font:inherit;color:inherit;background:var(--back);border:1px solid var(--edge);border-radius:6px;padding:5px 10px}
button{min-width:5.2em;cursor:pointer}
input[type=range]{width:min(360px,60vw);accent-color:var(--accent);vertical-align:middle}
:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
output{font-variant-numeric:tabular-nums;display:inline-block;min-width:9em}
img{display:block;max-width:100%;height:auto;background:#fff;border-radius:4px;margin:0 auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:3px 16px 3px 0;text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
thead th{border-bottom:1px solid var(--edge);font-weight:600}
td.worse{color:var(--bad);font-weight:600}
dl{display:grid;grid-template-columns:minmax(8em,max-content) 1fr;gap:4px 18px;margin:0}
dt{font-weight:600}dd{margin:0;overflow-wrap:anywhere;white-space:pre-wrap}
.tables{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(440px,100%),1fr));gap:0 28px}
.tables>div{overflow-x:auto}
summary{cursor:pointer}
.card+.card{margin-top:14px}
footer{padding-top:26px;padding-bottom:40px}
"""

SCRIPT = """
(function () {
  "use strict";
  var data = JSON.parse(document.getElementById("maps").textContent);
  var picker = document.getElementById("variable"), slider = document.getElementById("lead");
  var shown = document.getElementById("shown"), picture = document.getElementById("map");
  var play = document.getElementById("play");
  var timer = null;
  function draw() {
    var variable = data[picker.selectedIndex], frame = variable.frames[Number(slider.value)];
    picture.src = frame.image;
    picture.alt = frame.words;
    shown.textContent = frame.lead;
    slider.setAttribute("aria-valuetext", frame.lead);
  }
  function remember() {
    var frame = data[picker.selectedIndex].frames[Number(slider.value)];
    var name = data[picker.selectedIndex].name + "/" + frame.key;
    try { history.replaceState(null, "", "#" + encodeURIComponent(name)); } catch (error) { return; }
  }
  function recall() {
    var wanted;
    try { wanted = decodeURIComponent(location.hash.slice(1)).split("/"); } catch (error) { return; }
    data.forEach(function (variable, i) {
      if (variable.name !== wanted[0]) { return; }
      picker.selectedIndex = i;
      variable.frames.forEach(function (frame, j) { if (frame.key === wanted[1]) { slider.value = String(j); } });
    });
  }
  function stop() {
    if (timer !== null) {
      clearInterval(timer);
      timer = null;
      play.textContent = "Play";
      play.setAttribute("aria-pressed", "false");
    }
  }
  function change() { draw(); remember(); }
  slider.addEventListener("input", function () { stop(); change(); });
  picker.addEventListener("change", change);
  play.addEventListener("click", function () {
    if (timer !== null) { stop(); remember(); return; }
    play.textContent = "Stop";
    play.setAttribute("aria-pressed", "true");
    timer = setInterval(function () {
      slider.value = String((Number(slider.value) + 1) % (Number(slider.max) + 1));
      draw();
    }, 700);
  });
  window.addEventListener("hashchange", function () { recall(); draw(); });
  recall();
  draw();
})();
"""


def escape(text: object) -> str:
    """Text for HTML, in an element or a quoted attribute; control characters become blanks."""
    return html.escape("".join(c if c.isprintable() or c == "\n" else " " for c in str(text)), quote=True)


def as_json(value: Any) -> str:
    """JSON that can stand inside a script element: no `<`, `>` or `&` is left in it."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def data_uri(content: bytes, kind: str = "image/png") -> str:
    """A picture as an address that needs no file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def policy() -> str:
    """The content security policy: nothing is fetched, and only our own script and style run."""
    return f"default-src 'none'; img-src data:; script-src {_hash(SCRIPT)}; style-src {_hash(STYLE)}; base-uri 'none'; form-action 'none'"


def picker(variables: Sequence[Mapping[str, Any]]) -> str:
    """Variable list, lead slider and the first map; `variables`: name, label and frames (key, lead, words, image)."""
    options = "".join(f"<option>{escape(v['label'])}</option>" for v in variables)
    frames = variables[0]["frames"]
    return (
        '<section aria-labelledby="h-maps"><h2 id="h-maps">Maps</h2><div class="card"><div class="controls">'
        f'<span><label for="variable">Variable</label> <select id="variable">{options}</select></span>'
        f'<span><label for="lead">Lead time</label> <input type="range" id="lead" min="0" max="{len(frames) - 1}" step="1" value="0"> '
        f'<output id="shown" for="lead">{escape(frames[0]["lead"])}</output></span>'
        '<button type="button" id="play" aria-pressed="false">Play</button></div>'
        f'<img id="map" src="{frames[0]["image"]}" alt="{escape(frames[0]["words"])}">'
        '<noscript><p class="muted">Without JavaScript only the first lead of the first variable is shown.</p></noscript></div></section>'
        f'<script type="application/json" id="maps">{as_json(list(variables))}</script>')


def score_table(label: str, units: str, rows: Sequence[tuple[str, str, str, str, float | None]]) -> str:
    """One variable's table; rows: lead, model, persistence, climatology, skill (None where undefined)."""
    body = ""
    for lead, model, persistence, climatology, skill in rows:
        words = "–" if skill is None else f"{skill:+.2f}".replace("-", "−")
        worse = ' class="worse"' if skill is not None and skill < 0 else ""
        body += (f"<tr><td>{escape(lead)}</td><td>{escape(model)}</td><td>{escape(persistence)}</td><td>{escape(climatology)}</td>"
                 f"<td{worse}>{words}</td></tr>")
    unit = f" ({escape(units)})" if units else ""
    head = "".join(f'<th scope="col">{name}</th>' for name in ("lead", "model", "persistence", "climatology", "skill"))
    return f"<div><h3>{escape(label)}{unit}</h3><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def facts(values: Mapping[str, Any]) -> str:
    """A list of names and values; nested mappings and lists are written on lines of their own."""
    return "<dl>" + "".join(f"<dt>{escape(clean(k, 80))}</dt><dd>{escape(_plain(v))}</dd>" for k, v in values.items()) + "</dl>"


def _plain(value: Any, depth: int = 0) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{'  ' * depth}{clean(k, 80)}:{_below(v, depth + 1)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join("{" + _plain(v).replace("\n", ", ") + "}" if isinstance(v, Mapping) else _plain(v, depth + 1) for v in value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return "\n".join(clean(line, 2000) for line in str(value).splitlines()) or str(value).strip()


def _below(value: Any, depth: int) -> str:
    """A value after its name: a mapping on the lines below it."""
    return ("\n" if isinstance(value, Mapping) and value else " ") + _plain(value, depth)


def whole(title: str, head: str, sections: Sequence[str], foot: str) -> str:
    """The page; `head`, `sections` and `foot` are HTML already, `title` is text."""
    page = (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{escape(policy())}">'
            '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="referrer" content="no-referrer">'
            '<link rel="icon" href="data:,">'
            f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><header><h1>{escape(title)}</h1>{head}</header>\n"
            f"<main>{''.join(sections)}</main>\n<footer>{foot}</footer>\n")
    return page + (f"<script>{SCRIPT}</script></body></html>\n" if 'id="maps"' in page else "</body></html>\n")
