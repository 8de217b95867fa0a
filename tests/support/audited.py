"""What people cannot use on a page, as a browser shows it: text that fades, targets too small for a finger."""

from __future__ import annotations

from itertools import pairwise

from support.chromium import Tab

#: The sizes at which pages are looked at: width, height, and whether it has a finger for a pointer.
SIZES = {"desktop": (1440, 900, False), "tablet": (768, 1024, True), "phone": (375, 812, True)}
#: Pixels that a target on a touch screen is to have in both directions.
_FINGER = 44
_CONTRAST = """
(() => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(c => c / 255).map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
    return .2126 * x + .7152 * y + .0722 * z;
  };
  const ground = element => {
    for (let at = element; at; at = at.parentElement) {
      const found = parts(getComputedStyle(at).backgroundColor);
      if (found.length < 4 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
    if (!text || !element.checkVisibility()) continue;
    const style = getComputedStyle(element), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const [a, b] = [light(parts(style.color)), light(ground(element))].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < (large ? 3 : 4.5)) found.push(`${ratio.toFixed(2)}: ${text.slice(0, 40)}`);
  }
  return found;
})()
"""
_SMALL = f"""
[...document.querySelectorAll("a[href], button, input, summary")]
  .filter(one => one.checkVisibility() && !one.closest(".skip"))
  .map(one => [one.getBoundingClientRect(), one])
  .filter(([box]) => box.width < {_FINGER} || box.height < {_FINGER})
  .map(([box, one]) => `${{one.textContent.trim() || one.name}}: ${{box.width}} x ${{box.height}}`)
"""
#: What is wider than the window, or cut off where it cannot be scrolled to.
_WIDE = """
[...document.querySelectorAll("body *")]
  .filter(one => one.checkVisibility() && !one.closest(".skip, svg") && !one.matches("thead, thead *"))
  .filter(one => one.getBoundingClientRect().right > innerWidth + 1 && !one.closest(".scroll"))
  .map(one => `${one.tagName} ${one.className} ${one.id}`)
"""
_ROLES = {"button", "link", "textbox", "progressbar", "region", "table", "img", "DisclosureTriangle"}


def faults(tab: Tab) -> list[str]:
    """Return what is wrong with the page at each size, light and dark: contrast, targets, overflow, names, headings."""
    found: list[str] = []
    for name, (width, height, finger) in SIZES.items():
        for dark in (False, True):
            tab.look(width=width, height=height, dark=dark, phone=finger)
            about = f"{name}, {'dark' if dark else 'light'}"
            found += [f"{about}: contrast {one}" for one in tab.value(_CONTRAST)]
            found += [f"{about}: too wide: {one}" for one in tab.value(_WIDE)]
            if finger:
                found += [f"{about}: too small for a finger: {one}" for one in tab.value(_SMALL)]
    return found + _structure(tab)


def _structure(tab: Tab) -> list[str]:
    """Return what a screen reader misses: names of what can be used, one h1, headings in steps, a language, a main."""
    nodes = [one for one in tab.ask("Accessibility.getFullAXTree")["nodes"] if not one.get("ignored")]
    roles = [(one["role"]["value"], one.get("name", {}).get("value", ""), one) for one in nodes]
    found = [f"a {role} without a name" for role, name, _ in roles if role in _ROLES - {"table"} and not name]
    levels = [int(tag[1]) for tag in tab.value("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => h.tagName)")]
    if levels.count(1) != 1 or any(after > before + 1 for before, after in pairwise(levels)):
        found.append(f"headings {levels}")
    if not any(role == "main" for role, *_ in roles) or not tab.value("document.documentElement.lang"):
        found.append("no main, or no language")
    return found
