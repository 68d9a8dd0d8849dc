"""A self-contained HTML page with Plotly figures: it opens offline and stays under 5 MB.

Plotly's script alone is 4.8 MB; it is carried compressed and unpacked by the browser.
"""

from __future__ import annotations

import base64
import functools
import gzip
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2
import plotly.graph_objects as go
from markupsafe import Markup


def render_page(
    package: str, template: str, figures: Mapping[str, go.Figure], values: Mapping[str, Any]
) -> str:
    """Fill the Jinja template `template` that lies in `package`.

    The template gets `values`, and `figure(name)`, which places one of the `figures`, and
    `scripts()`, which must come last in the body. Values are escaped as HTML; text inside figures
    has been escaped by the function that drew them.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = files(package).joinpath(template).read_text(encoding="utf-8")
    placed: list[str] = []

    def figure(name: str) -> Markup:
        placed.append(name)
        height = figures[name].layout.height or 420
        markup = Markup(
            '<div class="figure" data-figure="{name}" style="min-height:{height}px"></div>'
        )
        return markup.format(name=name, height=int(height))

    def scripts() -> Markup:
        specs = {name: json.loads(figures[name].to_json()) for name in placed}
        # "<" could end the script element early; as an escape it is the same JSON.
        data = json.dumps(specs, separators=(",", ":")).replace("<", "\\u003c")
        return Markup(_SCRIPTS % (_compressed_plotly(), data))

    return environment.from_string(source).render(**values, figure=figure, scripts=scripts)


@functools.cache
def _compressed_plotly() -> str:
    source = files("plotly").joinpath("package_data/plotly.min.js").read_bytes()
    # No time stamp: the same run gives the same page, byte for byte.
    return base64.b64encode(gzip.compress(source, 9, mtime=0)).decode()


_SCRIPTS = """
<script type="text/plain" id="plotly-gzip">%s</script>
<script type="application/json" id="figures">%s</script>
<script>
(async () => {
  const holders = [...document.querySelectorAll("[data-figure]")];
  try {
    const packed = atob(document.getElementById("plotly-gzip").textContent);
    const bytes = Uint8Array.from(packed, (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    const figures = JSON.parse(document.getElementById("figures").textContent);
    for (const holder of holders) {
      const name = holder.dataset.figure;
      const layout = { ...figures[name].layout, autosize: true };
      delete layout.width;
      await Plotly.newPlot(holder, figures[name].data, layout, {
        responsive: true,
        displaylogo: false,
        modeBarButtonsToRemove: ["select2d", "lasso2d"],
        toImageButtonOptions: { format: "svg", filename: name },
      });
    }
    document.body.dataset.ready = "true";
  } catch (error) {
    for (const holder of holders) {
      holder.textContent =
        "This browser is too old to draw the figures; the numbers are in the results folder.";
    }
  }
})();
</script>
"""
