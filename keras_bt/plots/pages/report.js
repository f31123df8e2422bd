"use strict";
// The curves of a run: SVG, drawn at the width that there is, with values where one points.
{
  const SVG = "http://www.w3.org/2000/svg";
  const MARGIN = { left: 46, right: 10, top: 6, bottom: 20 };

  function shape(tag, attributes, ...children) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  function number(value) {
    const size = Math.abs(value);
    if (size === 0) return "0"; // not -0
    if (size >= 100000 || (size > 0 && size < 0.001)) return value.toExponential(1);
    return value.toLocaleString("en-US", { maximumSignificantDigits: 4 });
  }

  // About `count` round numbers from low to high.
  function ticks(low, high, count) {
    const rough = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((f) => f * power).find((s) => s >= rough);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push(i * step);
    return found;
  }

  function powers(low, high) {
    const found = [];
    for (let p = Math.floor(Math.log10(low)); 10 ** p <= high; p++) {
      for (const factor of high / low > 300 ? [1] : [1, 2, 5]) {
        const value = factor * 10 ** p;
        if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
      }
    }
    return found;
  }

  function draw(figure, chart) {
    const all = chart.curves.flatMap((curve) => curve.y);
    let low = Math.min(...all), high = Math.max(...all);
    const logarithmic = low > 0 && high / low > 10;
    const scale = logarithmic ? Math.log10 : (value) => value;
    if (low === high) { low -= Math.abs(low) / 2 || 1; high += Math.abs(high) / 2 || 1; }
    const last = Math.max(...chart.curves.flatMap((curve) => curve.x));
    const first = Math.min(...chart.curves.flatMap((curve) => curve.x));
    const steps = chart.curves[0].x;

    const values = chart.curves.map(() => page.element("b"));
    const where = page.element("span", { class: "quiet" });
    const keys = chart.curves.map((curve, i) => page.element("span", { class: "key" },
      shape("svg", { viewBox: "0 0 20 8", "aria-hidden": "true" },
        shape("line", { x1: 0, x2: 20, y1: 4, y2: 4, class: `curve${i % 4}`, "stroke-width": 2 })),
      `${curve.name} `, values[i]));
    const caption = page.element("figcaption", {}, page.element("span", { class: "head" },
      page.element("strong", {}, chart.title), where), ...keys);
    const svg = shape("svg", { tabindex: 0, role: "img" });
    figure.replaceChildren(caption, svg);
    svg.setAttribute("aria-label", `${chart.title}: ${chart.curves.map((curve) =>
      `${curve.name} from ${number(curve.y[0])} to ${number(curve.y.at(-1))}`).join("; ")}`);

    let x, y, pointed = null;

    function resize() {
      const width = svg.clientWidth, height = svg.clientHeight;
      if (!width) return;
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      const right = width - MARGIN.right, bottom = height - MARGIN.bottom;
      x = (step) => MARGIN.left + (last === first ? 0.5 : (step - first) / (last - first)) * (right - MARGIN.left);
      y = (value) => bottom - (scale(value) - scale(low)) / (scale(high) - scale(low)) * (bottom - MARGIN.top);
      const parts = [];
      for (const tick of logarithmic ? powers(low, high) : ticks(low, high, 4)) {
        parts.push(shape("line", { class: "grid", x1: MARGIN.left, x2: right, y1: y(tick), y2: y(tick) }));
        parts.push(shape("text", { x: MARGIN.left - 6, y: y(tick) + 4, "text-anchor": "end" }, number(tick)));
      }
      parts.push(shape("line", { class: "axis", x1: MARGIN.left, x2: right, y1: bottom, y2: bottom }));
      for (const tick of last === first ? [first] : ticks(first, last, Math.max(2, width / 90))) {
        parts.push(shape("text", { x: x(tick), y: height - 5, "text-anchor": x(tick) > right - 12 ? "end" : "middle" }, number(tick)));
      }
      chart.curves.forEach((curve, i) => {
        const points = curve.y.map((value, j) => `${x(curve.x[j]).toFixed(1)} ${y(value).toFixed(1)}`);
        if (points.length === 1) {
          parts.push(shape("circle", { class: `curve${i % 4}`, cx: x(curve.x[0]), cy: y(curve.y[0]), r: 3 }));
        } else parts.push(shape("path", { class: `curve${i % 4}`, d: `M${points.join("L")}` }));
      });
      parts.push(shape("g", { class: "pointed" }));
      svg.replaceChildren(...parts);
      point(pointed);
    }

    // Shows the values at a step, of the last one without it.
    function point(step) {
      pointed = step;
      const marks = [];
      let epoch = 0;
      chart.curves.forEach((curve, i) => {
        let j = curve.x.length - 1;
        if (step !== null) {
          for (let k = 0; k < curve.x.length; k++) {
            if (Math.abs(curve.x[k] - step) < Math.abs(curve.x[j] - step)) j = k;
          }
          marks.push(shape("circle", { class: `curve${i % 4}`, cx: x(curve.x[j]), cy: y(curve.y[j]), r: 3 }));
          epoch = curve.epochs[j];
        }
        values[i].textContent = number(curve.y[j]);
      });
      where.textContent = step === null ? "" : `step ${step.toLocaleString("en-US")}${epoch ? `, epoch ${epoch.toLocaleString("en-US")}` : ""}`;
      if (step !== null) {
        marks.unshift(shape("line", { class: "pointer", x1: x(step), x2: x(step), y1: MARGIN.top, y2: svg.clientHeight - MARGIN.bottom }));
      }
      svg.querySelector(".pointed").replaceChildren(...marks);
    }

    svg.addEventListener("pointermove", (event) => {
      const at = event.clientX - svg.getBoundingClientRect().left;
      point(steps.reduce((best, step) => Math.abs(x(step) - at) < Math.abs(x(best) - at) ? step : best));
    });
    svg.addEventListener("pointerleave", () => point(null));
    svg.addEventListener("blur", () => point(null));
    svg.addEventListener("keydown", (event) => {
      const now = pointed === null ? steps.length - 1 : steps.indexOf(pointed);
      const to = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: steps.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      point(steps[Math.max(0, Math.min(steps.length - 1, to))]);
    });
    new ResizeObserver(resize).observe(svg);
    resize();
  }

  const { charts } = page.data();
  for (const figure of document.querySelectorAll("[data-chart]")) {
    draw(figure, charts[Number(figure.dataset.chart)]);
  }
}
