"""A view without a kernel: the bundles, and the messages that a kernel would send, in one HTML page that needs no network."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from interp_widgets.widgets.guard import STATIC
from interp_widgets.widgets.outbox import pack

Json = dict[str, Any]

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>html{{color-scheme:light dark}}html.light{{color-scheme:light}}html.dark{{color-scheme:dark}}
body{{margin:0;padding:6px}}html.dark:not(.framed) body{{background:#111318}}{style}</style></head>
<body><div id="place"></div>
<script type="application/json" id="scene">{scene}</script>
<script type="application/json" id="bundles">{bundles}</script>
<script type="module">
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const load = (text) => import(URL.createObjectURL(new Blob([text], {{ type: "text/javascript" }})));
const outer = window.frameElement;
const system = matchMedia("(prefers-color-scheme: dark)");
const host = outer?.ownerDocument;
const isDark = () => {{
  const {{ jpThemeLight, vscodeThemeKind }} = host?.body.dataset ?? {{}};
  if (jpThemeLight) return jpThemeLight === "false";
  if (vscodeThemeKind) return /dark|high-contrast$/.test(vscodeThemeKind);
  const named = host?.documentElement.getAttribute("theme") ?? host?.documentElement.dataset.theme;
  return named ? named === "dark" : system.matches;
}};
const follow = () => {{
  const dark = isDark();
  document.documentElement.classList.toggle("dark", dark);
  document.documentElement.classList.toggle("light", !dark);
  if (outer) outer.style.colorScheme = dark ? "dark" : "light";
}};
follow();
system.addEventListener("change", follow);
if (outer) {{
  document.documentElement.classList.add("framed");
  const watched = {{ attributes: true }};
  const changes = new MutationObserver(follow);
  changes.observe(host.body, watched);
  changes.observe(host.documentElement, watched);
  const fit = () => {{ outer.style.height = document.body.scrollHeight + 2 + "px"; }};
  new ResizeObserver(fit).observe(document.body);
}}
const {{ session, view, still }} = read("bundles");
const [a, b, c] = await Promise.all([load(session), load(view), load(still)]);
await c.show(document.getElementById("place"), read("scene"), {{ session: a, view: b }});
</script></body></html>
"""


@dataclass(frozen=True)
class Still:
    """A saved view, drawn by the same code as the live one.

    Attributes:
        view: the bundle's name, such as `"attention_patterns"`.
        traits: the view's settings.
        messages: what the kernel would send, arrays included; see docs/protocol.md.
        answers: what it would answer to a panel's wish, by action and settings as compact JSON.
    """

    view: str
    traits: Json
    messages: Sequence[Json]
    answers: Mapping[str, Json] = field(default_factory=dict[str, Json])
    title: str = "interp_widgets"

    def document(self) -> str:
        """One HTML page; it loads nothing from anywhere."""
        scene = {
            "traits": self.traits,
            "messages": [_packed(m) for m in self.messages],
            "answers": {wish: _packed(m) for wish, m in self.answers.items()},
        }
        bundles = {"session": _static("session.js"), "view": _static(f"{self.view}.js"), "still": _static("still.js")}
        return _PAGE.format(
            title=html.escape(self.title),
            style=_static(f"{self.view}.css"),
            scene=_inside(scene),
            bundles=_inside(bundles),
        )

    def frame(self, height: int = 640) -> str:
        """The page in a frame of its own, for a notebook's output; it takes the height that it needs."""
        page = html.escape(self.document(), quote=True)
        return f'<iframe srcdoc="{page}" style="width:100%;height:{height}px;border:0" title="{html.escape(self.title)}"></iframe>'


def _packed(message: Json) -> Json:
    buffers: list[bytes] = []
    content = pack(message, buffers)
    return {"content": content, "buffers": [base64.b64encode(b).decode("ascii") for b in buffers]}


def _inside(value: Any) -> str:
    """JSON that cannot end the script element it stands in, whatever a token's text is."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _static(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")
