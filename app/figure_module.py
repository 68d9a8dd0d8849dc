"""Plotly as the explorer's pages need it: kinds of traces that they do not draw wait for a figure
that has one.

Streamlit's module for figures registers all of Plotly's kinds of traces, maps and scenes in WebGL
among them. To evaluate these keeps a browser from drawing for half a second to a second.
"""

from __future__ import annotations

import re

_FIRST = (b"bar", b"heatmap", b"scatter", b"calendars")
"""What is registered at once: the kinds of traces of Obverse's own figures, and calendars, which
are asked for by axes."""
_ALL = re.compile(
    rb'(\{"lib/index\.js"\(\w+,\w+\)\{var ([\w$]+)=[\w$]+\(\);)\2\.register\(\[([\w$(),]+)\]\)'
)
# A text that begins with what is rare is looked through in a hundredth of the time.
_KIND = re.compile(rb'\(\{"lib/([\w-]+)\.js"\(')
_NAMED = re.compile(rb"([\w$]+)=[\w$]+\Z")
# Whatever draws is called with traces, or with an object that has them, its frames' too.
_LATER = b"""((plotly, rest) => {
  const known = [%s];
  let more = () => { more = () => {}; plotly.register(rest()); };
  for (const name of ["newPlot", "react"]) {
    const draw = plotly[name];
    plotly[name] = function (place, given) {
      const frames = (given?.frames ?? []).map((frame) => frame?.data ?? []);
      const traces = [given?.data ?? given ?? [], ...frames].flat();
      if (traces.some((trace) => trace?.type && !known.includes(trace.type))) more();
      return draw.apply(this, arguments);
    };
  }
})"""


def sooner(module: bytes) -> bytes:
    """Streamlit's module for figures, ready sooner, which draws the same figures; as it was where
    it is built differently."""
    found = _ALL.search(module)
    if found is None:
        return module
    plotly, calls = found[2], found[3].split(b",")
    kinds = {}
    for kind in _KIND.finditer(module):
        if name := _NAMED.search(module, max(0, kind.start() - 40), kind.start()):
            kinds[b"%s()" % name[1]] = kind[1]
    first = [call for call in calls if kinds.get(call) in _FIRST]
    rest = [call for call in calls if call not in first]
    known = b", ".join(b'"%s"' % kind for kind in _FIRST)
    instead = b"%s.register([%s]),(%s)(%s,()=>[%s])" % (
        plotly,
        b",".join(first),
        _LATER % known,
        plotly,
        b",".join(rest),
    )
    return module[: found.end(1)] + instead + module[found.end() :]
