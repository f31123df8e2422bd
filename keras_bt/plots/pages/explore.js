"use strict";
// What surrounds the map: filter, colors, and a panel for the image, the clusters and the lists.
(() => {
  const data = page.data();
  const n = data.names.length;
  const $ = (id) => document.getElementById(id);
  const { element } = page;
  const count = (number) => number.toLocaleString("en");
  const images = (number) => `${count(number)} image${number === 1 ? "" : "s"}`;
  const MOST_SHOWN = 60;  // pictures of a list; the saved file has all
  const MOST_LETTERS = 60;  // of a name below the pointer

  // ---- colors

  // Paul Tol's "muted" scheme, which color-blind people can tell apart; lighter on a dark page.
  const LIGHT = ["#332288", "#CC6677", "#117733", "#88CCEE", "#882255", "#DDCC77", "#44AA99",
    "#AA4499", "#999933", "#777777"];
  const DARK = ["#9d92f0", "#e5909d", "#4fb56f", "#88CCEE", "#d3689a", "#DDCC77", "#5cc7b5",
    "#cf7fc6", "#b9b955", "#a9a9a9"];

  function color(number, categories) {
    const few = page.isDark() ? DARK : LIGHT;
    if (categories <= few.length) return few[number % few.length];
    const hue = (number * 137.508 + 250) % 360;
    const light = (page.isDark() ? [70, 58, 82] : [42, 56, 30])[number % 3];
    return `hsl(${hue.toFixed(1)} 60% ${light}%)`;
  }

  // Each way to color: its categories, the one of each image, and what it is called.
  const ways = {};
  if (data.classes) {
    ways.class = { name: "class", of: data.classes.of, categories: data.classes.names };
  }
  ways.cluster = {
    name: "cluster", of: data.clusters.of,
    categories: data.clusters.typical.map((_, k) => `Cluster ${k + 1}`),
  };
  if (data.splits.names.length > 1) {
    ways.split = { name: "split", of: data.splits.of, categories: data.splits.names };
  }
  if (data.predicted) {
    const wrong = Uint8Array.from(data.predicted, (p, i) => {
      const own = data.classes.of[i];
      return own < 0 ? 2 : Number(p !== own);
    });
    ways.error = {
      name: "error of the probe", of: wrong, onTop: 1,
      categories: wrong.includes(2) ? ["Right", "Wrong", "No label"] : ["Right", "Wrong"],
      colors: () => (page.isDark() ? ["#58b4e8", "#f08a4b", "#a9a9a9"]
        : ["#0072b2", "#d55e00", "#777777"]),
    };
  }
  let way = ways.class || ways.cluster;
  const only = new Set();  // categories to show; none means all

  function colorsOf(chosen) {
    return chosen.colors ? chosen.colors()
      : chosen.categories.map((_, k) => color(k, chosen.categories.length));
  }

  // ---- the map

  const thumbnails = new Thumbnails(data.sheets, () => map.draw());
  const map = new ImageMap($("map"), data, thumbnails);
  let matches = null;  // Uint8Array of what the filter leaves, or null
  let selection = [];
  let current = -1;

  function say(text) { $("status").textContent = text; }

  function recolor() {
    map.theme();
    const css = colorsOf(way);
    const probe = element("canvas").getContext("2d", { willReadFrequently: true });
    const pixels = css.map((one) => {
      probe.fillStyle = one;
      probe.fillRect(0, 0, 1, 1);
      return new Uint32Array(probe.getImageData(0, 0, 1, 1).data.buffer)[0];
    });
    for (let i = 0; i < n; i++) {
      const category = way.of[i];
      map.colors[i] = category < 0 ? map.faint : pixels[category];
      map.css[i] = category < 0 ? map.ink : css[category];
    }
    showLegend(css);
    rerank();
    for (const swatch of document.querySelectorAll("[data-cluster-swatch]")) {
      const k = Number(swatch.dataset.clusterSwatch);
      swatch.style.background = colorsOf(ways.cluster)[k];
    }
  }

  function rerank() {
    let shown = 0;
    for (let i = 0; i < n; i++) {
      const active = (!matches || matches[i]) && (!only.size || only.has(way.of[i]));
      shown += active;
      map.ranks[i] = !active ? 0 : way.onTop === way.of[i] ? 2 : 1;
    }
    $("count").textContent = shown === n ? images(n) : `${count(shown)} of ${images(n)}`;
    $("take").disabled = shown === n || !shown;
    $("nothing").hidden = shown > 0;
    map.draw();
    return shown;
  }

  function showLegend(css) {
    const counts = new Array(way.categories.length).fill(0);
    for (let i = 0; i < n; i++) if (way.of[i] >= 0) counts[way.of[i]]++;
    $("legend").replaceChildren(...way.categories.map((name, k) => {
      const swatch = element("span", { class: "swatch" });
      swatch.style.background = css[k];
      return element("li", {}, element("button", {
        class: "plain entry", type: "button", "aria-pressed": String(only.has(k)), title: name,
        onclick: () => isolate(k),
      }, swatch, element("span", { class: "name" }, name), element("span", { class: "quiet" }, count(counts[k]))));
    }));
  }

  function isolate(category) {
    if (only.has(category)) only.delete(category);
    else only.add(category);
    [...$("legend").querySelectorAll("button")].forEach((button, k) => {
      button.setAttribute("aria-pressed", String(only.has(k)));
    });
    say(`${images(rerank())} shown`);
  }

  // ---- filter

  // The same letters in whatever way they were typed.
  const folded = (text) => text.normalize("NFKC").toLowerCase();
  let foldedNames = null;

  function filter() {
    const words = folded($("filter").value).split(/\s+/).filter(Boolean);
    foldedNames ??= data.names.map(folded);
    matches = words.length
      ? Uint8Array.from(foldedNames, (name) => words.every((word) => name.includes(word))) : null;
    say(matches ? `${images(rerank())} match` : `${images(rerank())} shown`);
  }

  let filterTimer = 0;
  $("filter").addEventListener("input", () => {
    clearTimeout(filterTimer);
    filterTimer = setTimeout(filter, 120);
  });
  $("filter").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    clearTimeout(filterTimer);
    filter();
    const shown = active();
    if (shown.length) map.fit(shown);
  });

  function active() {
    const shown = [];
    for (let i = 0; i < n; i++) if (map.ranks[i]) shown.push(i);
    return shown;
  }

  // ---- pictures in the panel

  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      watcher.unobserve(target);
      thumbnails.paint(target, Number(target.dataset.image), Number(target.dataset.side));
    }
  }, { rootMargin: "200px" });

  function picture(i, side) {
    const canvas = element("canvas", { "data-image": i, "data-side": side, "aria-hidden": "true" });
    canvas.style.width = canvas.style.height = `${side}px`;
    watcher.observe(canvas);
    return canvas;
  }

  function tile(i, side, ...captions) {
    return element("button", {
      class: "tile", type: "button", title: data.names[i], "aria-label": described(i, captions),
      onclick: () => choose(i, true),
    }, picture(i, side), ...captions.map((text) => element("span", { class: "caption" }, text)));
  }

  function className(i) {
    if (data.several) return data.several[i].map((k) => data.classNames[k]).join(", ") || null;
    return data.classes && data.classes.of[i] >= 0 ? data.classes.names[data.classes.of[i]] : null;
  }

  function described(i, captions = []) {
    return [...captions, data.names[i], className(i)].filter(Boolean).join(", ");
  }

  // ---- the image

  function choose(i, move = false) {
    current = i;
    map.chosen = i;
    map.related = i < 0 ? [] : neighborsOf(i);
    $("image-empty").hidden = i >= 0;
    $("image-shown").hidden = i < 0;
    if (i >= 0) {
      $("image-picture").replaceChildren(picture(i, 208));
      $("image-path").textContent = data.names[i];
      const facts = [];
      const own = className(i);
      if (own !== null) facts.push(["Class", own]);
      if (data.predicted && data.classes.of[i] >= 0) {
        const right = data.predicted[i] === data.classes.of[i];
        facts.push(["Probe", element("span", { class: right ? "right" : "wrong" },
          right ? "right" : `takes it for ${data.classes.names[data.predicted[i]]}`)]);
      }
      if (data.splits.names.length > 1) facts.push(["Split", data.splits.names[data.splits.of[i]]]);
      const cluster = data.clusters.of[i];
      facts.push(["Cluster", element("button", {
        class: "link", type: "button", onclick: () => showCluster(cluster),
      }, `Cluster ${cluster + 1}`)]);
      $("image-facts").replaceChildren(...facts.flatMap(([name, value]) => [
        element("dt", {}, name), element("dd", {}, value),
      ]));
      const similar = neighborsOf(i);
      $("image-neighbors").replaceChildren(...similar.map((other, k) => tile(
        other, 60, (data.similarities[i * data.neighborCount + k] / 100).toFixed(2),
      )));
      if (move && !map.isInView(i)) map.goTo(i);
      showTab("image");
      say(`Opened ${described(i)}`);
    }
    map.draw();
  }

  function neighborsOf(i) {
    const k = data.neighborCount;
    return Array.from(data.neighbors.subarray(i * k, (i + 1) * k));
  }

  async function copy(button, text, what) {
    const done = await page.copy(text);
    const before = button.dataset.label ??= button.textContent;
    button.textContent = done ? "Copied" : "Not copied";
    say(done ? `Copied ${what}` : "The browser does not allow copying");
    setTimeout(() => { button.textContent = before; }, 1500);
  }

  $("image-copy").addEventListener("click", () => {
    copy($("image-copy"), data.names[current], "the path");
  });
  $("image-show").addEventListener("click", () => map.goTo(current));

  // ---- clusters

  function showCluster(k) {
    showTab("clusters");
    const row = $("cluster-list").children[k];
    row.scrollIntoView({ block: "nearest" });
    row.querySelector("button").focus({ preventScroll: true });
    openCluster(k);
  }

  function openCluster(k) {
    if (way !== ways.cluster) setWay("cluster");
    only.clear();
    only.add(k);
    showLegend(colorsOf(way));
    say(`${images(rerank())} in cluster ${k + 1}`);
    map.fit(active());
  }

  function mostFrequent(k, sizes) {
    if (!data.classes) return null;
    const counts = new Map();
    for (let i = 0; i < n; i++) {
      if (data.clusters.of[i] !== k || data.classes.of[i] < 0) continue;
      counts.set(data.classes.of[i], (counts.get(data.classes.of[i]) || 0) + 1);
    }
    const best = [...counts].sort((a, b) => b[1] - a[1])[0];
    if (!best) return null;
    return `${data.classes.names[best[0]]} ${Math.round((100 * best[1]) / sizes[k])}%`;
  }

  function listClusters() {
    const sizes = new Array(data.clusters.typical.length).fill(0);
    for (const k of data.clusters.of) sizes[k]++;
    $("cluster-list").replaceChildren(...data.clusters.typical.map((typical, k) => {
      const most = mostFrequent(k, sizes);
      return element("li", {},
        element("button", {
          class: "plain entry", type: "button", onclick: () => openCluster(k),
        },
          element("span", { class: "swatch", "data-cluster-swatch": k }),
          element("span", { class: "name" }, `Cluster ${k + 1}`),
          element("span", { class: "quiet" }, [images(sizes[k]), most].filter(Boolean).join(" · "))),
        element("div", { class: "tiles" }, ...typical.map((i) => tile(i, 60))));
    }));
  }

  // ---- lists: what to label first, and what was selected

  // Of a spreadsheet: quoted where needed, with doubled quotes.
  function csv(header, rows) {
    const cell = (value) => (/[",\r\n]|^\s|\s$/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
    return [header, ...rows].map((row) => `${row.map((v) => cell(String(v ?? ""))).join(",")}\r\n`).join("");
  }

  function firstOnes() {
    const wanted = Math.max(1, Math.min(data.first.length, Number($("first-count").value) || 1));
    return Array.from(data.first.subarray(0, wanted));
  }

  function listFirst() {
    const first = firstOnes();
    $("first-tiles").replaceChildren(...first.map((i, rank) => tile(i, 60, String(rank + 1))));
    map.numbered = $("panel-first").hidden ? [] : first;
    map.draw();
  }

  $("first-count").max = data.first.length;
  $("first-count").value = Math.min(100, data.first.length);
  $("first-count").addEventListener("change", () => {
    $("first-count").value = firstOnes().length;
    listFirst();
    say(`${images(firstOnes().length)} to label`);
  });
  $("first-copy").addEventListener("click", () => {
    const first = firstOnes();
    copy($("first-copy"), first.map((i) => data.names[i]).join("\n"), `${first.length} paths`);
  });
  $("first-save").addEventListener("click", () => {
    const first = firstOnes();
    const rows = first.map((i) => [data.names[i], className(i)]);
    page.save("label_first.csv", csv(["path", "label"], rows), "text/csv");
    say(`Saved ${images(first.length)} to label_first.csv`);
  });

  function select(found, announce = true) {
    selection = found;
    map.selected.fill(0);
    for (const i of found) map.selected[i] = 1;
    $("selection-empty").hidden = found.length > 0;
    $("selection-shown").hidden = !found.length;
    $("selection-count").textContent = `${images(found.length)} selected`;
    $("selection-tiles").replaceChildren(...found.slice(0, MOST_SHOWN).map((i) => tile(i, 60)));
    const rest = found.length - MOST_SHOWN;
    $("selection-rest").textContent = rest > 0 ? `and ${count(rest)} more, all of them in the file` : "";
    if (announce) say(found.length ? `${images(found.length)} selected` : "Nothing is selected");
    map.draw();
  }

  $("selection-copy").addEventListener("click", () => {
    copy($("selection-copy"), selection.map((i) => data.names[i]).join("\n"), `${selection.length} paths`);
  });
  $("selection-save").addEventListener("click", () => {
    const rows = selection.map((i) => [
      data.names[i], className(i), data.splits.names[data.splits.of[i]], data.clusters.of[i] + 1,
    ]);
    page.save("selection.csv", csv(["path", "label", "split", "cluster"], rows), "text/csv");
    say(`Saved ${images(selection.length)} to selection.csv`);
  });
  $("selection-show").addEventListener("click", () => map.fit(selection));
  $("selection-clear").addEventListener("click", () => {
    select([]);
    $("map").focus();
  });
  $("take").addEventListener("click", () => {
    select(active());
    showTab("selection");
  });

  // ---- tabs

  const tabs = [...document.querySelectorAll("[role=tab]")];

  function showTab(name) {
    for (const tab of tabs) {
      const shown = tab.id === `tab-${name}`;
      tab.setAttribute("aria-selected", String(shown));
      tab.tabIndex = shown ? 0 : -1;
      $(tab.getAttribute("aria-controls")).hidden = !shown;
    }
    map.numbered = name === "first" ? firstOnes() : [];
    map.draw();
  }

  for (const [k, tab] of tabs.entries()) {
    tab.addEventListener("click", () => showTab(tab.id.slice(4)));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const next = tabs[(k + step + tabs.length) % tabs.length];
      showTab(next.id.slice(4));
      next.focus();
    });
  }

  // ---- the toolbar and the keys

  function setWay(name) {
    way = ways[name];
    $("color").value = name;
    only.clear();
    recolor();
  }

  $("color").replaceChildren(...Object.entries(ways).map(([value, { name }]) => element(
    "option", { value }, name[0].toUpperCase() + name.slice(1),
  )));
  $("color").addEventListener("change", () => setWay($("color").value));

  function setMode(mode) {
    map.mode = mode;
    $("lasso").setAttribute("aria-pressed", String(mode === "lasso"));
    $("map").classList.toggle("lasso", mode === "lasso");
  }

  $("lasso").addEventListener("click", () => {
    setMode(map.mode === "lasso" ? "pan" : "lasso");
    say(map.mode === "lasso" ? "Draw around images to select them" : "Drag to move the map");
  });
  $("pictures").addEventListener("click", () => {
    map.pictures = !map.pictures;
    $("pictures").setAttribute("aria-pressed", String(map.pictures));
    map.draw();
  });
  $("closer").addEventListener("click", () => map.zoomBy(1.5));
  $("farther").addEventListener("click", () => map.zoomBy(1 / 1.5));
  $("whole").addEventListener("click", () => map.fit());
  $("help").addEventListener("click", () => $("about").showModal());
  $("about-close").addEventListener("click", () => $("about").close());

  map.addEventListener("choose", ({ detail }) => {
    if (detail.image >= 0) choose(detail.image);
    else if (detail.byKey) say("No image is near the center");
    else choose(-1);
  });
  map.addEventListener("lasso", ({ detail }) => {
    if (detail.tiny) return;
    select(detail.images);
    showTab("selection");
    setMode("pan");
  });
  map.addEventListener("hover", ({ detail: { image, x, y } }) => {
    const hover = $("hover");
    hover.hidden = image < 0;
    if (image < 0) return;
    if (hover.dataset.image !== String(image)) {
      hover.dataset.image = image;
      $("hover-picture").replaceChildren(picture(image, 96));
      const letters = [...data.names[image]];  // the end tells files of a folder apart
      $("hover-name").textContent = letters.length <= MOST_LETTERS ? data.names[image]
        : `…${letters.slice(-MOST_LETTERS).join("")}`;
      $("hover-class").textContent = [className(image), way === ways.class ? null
        : way.categories[way.of[image]]].filter(Boolean).join(" · ");
    }
    const box = hover.getBoundingClientRect();
    const right = x + 16 + box.width < map.width;
    hover.style.left = `${right ? x + 16 : Math.max(4, x - 16 - box.width)}px`;
    hover.style.top = `${Math.max(4, Math.min(map.height - box.height - 4, y - 20))}px`;
  });

  // Escape undoes one thing after the other, the latest and smallest first.
  function escape() {
    if (map.polygon) {
      map.polygon = null;
      map.draw();
    } else if (map.mode === "lasso") setMode("pan");
    else if (current >= 0) {
      choose(-1);
      say("Closed the image");
    } else if (selection.length) select([]);
    else if (only.size || $("filter").value) {
      $("filter").value = "";
      matches = null;
      only.clear();
      showLegend(colorsOf(way));
      say(`${images(rerank())} shown`);
    }
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || $("about").open) return;
    if (event.key === "Escape") {
      event.preventDefault();
      escape();
      return;
    }
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const actions = {
      "/": () => $("filter").focus(),
      l: () => $("lasso").click(),
      p: () => $("pictures").click(),
      "?": () => $("help").click(),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  });

  document.addEventListener("themechange", recolor);
  listClusters();
  listFirst();
  select([], false);
  setWay(data.classes ? "class" : "cluster");
  choose(-1);
  showTab("image");
  map.drawNow();
  performance.mark("first-picture");
  window.explore = { map, thumbnails };  // for the console, and for tests
})();
