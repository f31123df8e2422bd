"use strict";
// The map: points on a canvas, pictures where there is room for them, and a hand that moves it.
class ImageMap extends EventTarget {
  static GRID = 64;  // cells along each side, by which what is in view is found
  static SMALLEST_PICTURE = 48;  // CSS pixels; with twice that, more pictures appear
  static REACH = 14;  // CSS pixels from a point at which a pointer still means it

  // Events: "choose" {image}, "hover" {image, x, y}, "lasso" {images}, "escape".
  constructor(canvas, { x, y, levels, base, firstLevel }, thumbnails) {
    super();
    Object.assign(this, { canvas, x, y, levels, base, firstLevel, thumbnails });
    this.n = x.length;
    this.context = canvas.getContext("2d", { alpha: false });
    this.colors = new Uint32Array(this.n);  // as the pixels of a canvas are: 0xAABBGGRR
    this.css = new Array(this.n);  // the same, for frames of pictures
    this.ranks = new Uint8Array(this.n).fill(1);  // 0: faint, 1: as it is, 2: above the others
    this.selected = new Uint8Array(this.n);
    this.chosen = -1;
    this.related = [];
    this.numbered = [];
    this.pictures = true;
    this.mode = "pan";
    this.polygon = null;
    this.inView = new Int32Array(this.n);
    this.drawn = [];  // boxes of pictures: [image, x, y, side]
    this.view = { x: 0.5, y: 0.5, scale: 1 };
    const largest = (a, b) => Math.max(a, b);
    this.extent = [x.reduce(largest, 0), y.reduce(largest, 0)];
    // Images of level 255 lie on top of others at any scale.
    this.deepest = levels.reduce((a, b) => (b < 255 ? Math.max(a, b) : a), firstLevel);
    this.makeGrid();
    this.listen();
    new ResizeObserver(() => this.resize()).observe(canvas);
    this.resize();
    this.fit();
  }

  // ---- where things are

  makeGrid() {
    const G = ImageMap.GRID;
    const cell = (i) => {
      const column = Math.min(G - 1, Math.floor(this.x[i] * G));
      return Math.min(G - 1, Math.floor(this.y[i] * G)) * G + column;
    };
    this.starts = new Int32Array(G * G + 1);
    for (let i = 0; i < this.n; i++) this.starts[cell(i) + 1]++;
    for (let c = 0; c < G * G; c++) this.starts[c + 1] += this.starts[c];
    const next = this.starts.slice();
    this.byCell = new Int32Array(this.n);
    for (let i = 0; i < this.n; i++) this.byCell[next[cell(i)]++] = i;
  }

  // Fills `inView` with the images in a box of the map; returns how many they are.
  find(left, top, right, bottom) {
    const G = ImageMap.GRID;
    const at = (value) => Math.max(0, Math.min(G - 1, Math.floor(value * G)));
    let count = 0;
    for (let row = at(top); row <= at(bottom); row++) {
      const end = this.starts[row * G + at(right) + 1];
      for (let k = this.starts[row * G + at(left)]; k < end; k++) {
        const i = this.byCell[k];
        if (this.x[i] >= left && this.x[i] <= right && this.y[i] >= top && this.y[i] <= bottom) {
          this.inView[count++] = i;
        }
      }
    }
    return count;
  }

  screen(i) {
    const { x, y, scale } = this.view;
    return [(this.x[i] - x) * scale + this.width / 2, (this.y[i] - y) * scale + this.height / 2];
  }

  world(px, py) {
    const { x, y, scale } = this.view;
    return [(px - this.width / 2) / scale + x, (py - this.height / 2) / scale + y];
  }

  // The level of detail: pictures of this level and below do not overlap at this scale.
  level() {
    return Math.floor(Math.log2((this.view.scale * this.base) / ImageMap.SMALLEST_PICTURE));
  }

  // What a pointer at this place means: a picture, or the nearest point in reach; else -1.
  imageAt(px, py, reach = ImageMap.REACH) {
    for (let k = this.drawn.length - 1; k >= 0; k--) {
      const [image, x, y, side] = this.drawn[k];
      if (px >= x && px <= x + side && py >= y && py <= y + side) return image;
    }
    const [left, top] = this.world(px - reach, py - reach);
    const [right, bottom] = this.world(px + reach, py + reach);
    const count = this.find(left, top, right, bottom);
    let [best, nearest] = [-1, reach * reach];
    for (let k = 0; k < count; k++) {
      const i = this.inView[k];
      if (this.ranks[i] === 0) continue;
      const [x, y] = this.screen(i);
      const distance = (x - px) ** 2 + (y - py) ** 2;
      if (distance <= nearest) [best, nearest] = [i, distance];
    }
    return best;
  }

  // ---- moving

  resize() {
    const box = this.canvas.getBoundingClientRect();
    const first = !this.width;
    this.width = Math.max(1, box.width);
    this.height = Math.max(1, box.height);
    this.ratio = Math.min(devicePixelRatio || 1, 2);  // more is not seen, only slow
    this.canvas.width = Math.round(this.width * this.ratio);
    this.canvas.height = Math.round(this.height * this.ratio);
    this.frame = this.context.createImageData(this.canvas.width, this.canvas.height);
    this.pixels = new Uint32Array(this.frame.data.buffer);
    if (!first) this.draw();
  }

  // The view in which all these images, or all there are, can be seen.
  viewOf(images = null) {
    let [left, top, right, bottom] = [0, 0, 1, 1];
    if (images) {
      [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
      for (const i of images) {
        left = Math.min(left, this.x[i]);
        right = Math.max(right, this.x[i]);
        top = Math.min(top, this.y[i]);
        bottom = Math.max(bottom, this.y[i]);
      }
    } else {
      [right, bottom] = this.extent;
    }
    const margin = Math.min(56, this.width / 8, this.height / 8);
    const scale = Math.min(
      (this.width - 2 * margin) / Math.max(right - left, 1e-9),
      (this.height - 2 * margin) / Math.max(bottom - top, 1e-9),
    );
    return { x: (left + right) / 2, y: (top + bottom) / 2, scale: this.limited(scale) };
  }

  limited(scale) {
    const least = Math.min(this.width, this.height) / 3;
    const most = (2 * ImageMap.SMALLEST_PICTURE * 2 ** this.deepest) / this.base;
    return Math.max(least, Math.min(Math.max(most, 4 * least), scale));
  }

  fit(images = null) { this.moveTo(this.viewOf(images)); }

  // Goes there in a quarter of a second, or at once for those who want no motion.
  moveTo(goal) {
    const start = { ...this.view };
    const begun = performance.now();
    const time = !this.settled || matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 250;
    this.settled = true;
    cancelAnimationFrame(this.motion);
    const step = () => {
      const t = time ? Math.min(1, (performance.now() - begun) / time) : 1;
      const eased = 1 - (1 - t) ** 3;
      const scale = start.scale * (goal.scale / start.scale) ** eased;
      // So that it moves straight on the screen while it is scaled.
      const part = Math.abs(goal.scale - start.scale) < 1e-9 * goal.scale
        ? eased : (1 / start.scale - 1 / scale) / (1 / start.scale - 1 / goal.scale);
      this.view = {
        x: start.x + (goal.x - start.x) * part, y: start.y + (goal.y - start.y) * part, scale,
      };
      this.draw();
      if (t < 1) this.motion = requestAnimationFrame(step);
    };
    step();
  }

  panBy(dx, dy) {
    cancelAnimationFrame(this.motion);
    this.view.x = Math.max(-0.2, Math.min(1.2, this.view.x - dx / this.view.scale));
    this.view.y = Math.max(-0.2, Math.min(1.2, this.view.y - dy / this.view.scale));
    this.draw();
  }

  zoomBy(factor, px = this.width / 2, py = this.height / 2) {
    cancelAnimationFrame(this.motion);
    const [x, y] = this.world(px, py);
    const scale = this.limited(this.view.scale * factor);
    this.view = {
      x: x - (px - this.width / 2) / scale, y: y - (py - this.height / 2) / scale, scale,
    };
    this.draw();
  }

  // Shows an image with its surroundings, large enough to be a picture.
  goTo(image) {
    const level = Math.max(Math.min(this.levels[image], this.deepest), this.firstLevel);
    const scale = (1.2 * ImageMap.SMALLEST_PICTURE * 2 ** level) / this.base;
    this.moveTo({
      x: this.x[image], y: this.y[image], scale: this.limited(Math.max(scale, this.view.scale)),
    });
  }

  isInView(image) {
    const [x, y] = this.screen(image);
    return x >= 0 && y >= 0 && x <= this.width && y <= this.height;
  }

  // ---- drawing

  draw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.drawNow();
    });
  }

  theme() {
    const style = getComputedStyle(this.canvas);
    const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const pixel = (color) => {
      probe.fillStyle = color;
      probe.fillRect(0, 0, 1, 1);
      return new Uint32Array(probe.getImageData(0, 0, 1, 1).data.buffer)[0];
    };
    this.background = pixel(style.backgroundColor);
    this.ink = style.color;
    this.paper = style.backgroundColor;
    this.accent = style.caretColor;
    this.accentPixel = pixel(this.accent);
    this.faint = pixel(style.borderTopColor);
  }

  drawNow() {
    const [w, h] = [this.canvas.width, this.canvas.height];
    const { x: cx, y: cy, scale } = this.view;
    const size = Math.round(this.ratio * Math.max(
      this.n > 5000 ? 3 : 5, Math.min(8, 2 + Math.log2(Math.max(1, scale / this.width)) * 1.2),
    ));
    const half = size / 2;
    const level = this.level();
    const side = (scale * this.base) / 2 ** level;
    const pictures = this.pictures && level >= this.firstLevel;
    const margin = side / 2;
    const [left, top] = this.world(-margin, -margin);
    const [right, bottom] = this.world(this.width + margin, this.height + margin);
    const count = this.find(left, top, right, bottom);

    // 20,000 rectangles of the canvas would take longer than all their pixels.
    const pixels = this.pixels;
    pixels.fill(this.background);
    const k = scale * this.ratio;
    const square = (i, grow, color) => {
      const left = Math.round((this.x[i] - cx) * k + w / 2 - half) - grow;
      const top = Math.round((this.y[i] - cy) * k + h / 2 - half) - grow;
      const [x0, x1] = [Math.max(0, left), Math.min(w, left + size + 2 * grow)];
      const [y0, y1] = [Math.max(0, top), Math.min(h, top + size + 2 * grow)];
      for (let row = y0; row < y1; row++) {
        for (let at = row * w + x0, end = row * w + x1; at < end; at++) pixels[at] = color;
      }
    };
    const edge = Math.ceil(this.ratio);
    for (let rank = 0; rank < 3; rank++) {
      for (let c = 0; c < count; c++) {
        const i = this.inView[c];
        if (this.ranks[i] !== rank) continue;
        if (this.selected[i]) square(i, edge, this.accentPixel);
        square(i, 0, rank ? this.colors[i] : this.faint);
      }
    }
    const context = this.context;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.putImageData(this.frame, 0, 0);
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);

    this.drawn.length = 0;
    if (pictures) {
      const inner = side * 0.9;
      for (let c = 0; c < count; c++) {
        const i = this.inView[c];
        if (this.levels[i] > level || this.ranks[i] === 0) continue;
        const [x, y] = this.screen(i);
        this.picture(i, x - inner / 2, y - inner / 2, inner);
      }
    }
    this.drawRelations(pictures ? side * 0.9 : 44);
    this.drawPolygon();
    if (this.showCross) this.drawCross();
  }

  // A picture in a frame of its color; its color alone until the picture is there.
  picture(i, x, y, side) {
    const context = this.context;
    const frame = this.selected[i] ? 3 : 2;
    const [w, h] = [this.thumbnails.width(i), this.thumbnails.height(i)];
    const scale = (side - 2 * frame) / Math.max(w, h);
    const [width, height] = [w * scale, h * scale];
    context.fillStyle = this.selected[i] ? this.accent : this.css[i];
    context.fillRect(
      x + (side - width) / 2 - frame, y + (side - height) / 2 - frame,
      width + 2 * frame, height + 2 * frame,
    );
    this.thumbnails.draw(context, i, x + frame, y + frame, side - 2 * frame);
    this.drawn.push([i, x, y, side]);
  }

  drawRelations(side) {
    const context = this.context;
    if (this.chosen >= 0) {
      const [x, y] = this.screen(this.chosen);
      context.strokeStyle = this.ink;
      context.lineWidth = 1;
      context.globalAlpha = 0.55;
      context.beginPath();
      for (const other of this.related) {
        context.moveTo(x, y);
        context.lineTo(...this.screen(other));
      }
      context.stroke();
      context.globalAlpha = 1;
      for (const other of this.related) this.ring(other, 5, 1.5);
      this.picture(this.chosen, x - side / 2, y - side / 2, side);
      context.strokeStyle = this.ink;
      context.lineWidth = 2;
      context.strokeRect(x - side / 2 - 2, y - side / 2 - 2, side + 4, side + 4);
    }
    const radius = this.width < 600 ? 7 : 10;
    context.font = `600 ${radius + 1}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    this.numbered.forEach((i, rank) => {
      const [x, y] = this.screen(i);
      if (x < -20 || y < -20 || x > this.width + 20 || y > this.height + 20) return;
      context.fillStyle = this.ink;
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.fill();
      context.fillStyle = this.paper;
      context.fillText(String(rank + 1), x, y + 0.5);
    });
  }

  ring(i, radius, width) {
    const [x, y] = this.screen(i);
    this.context.strokeStyle = this.ink;
    this.context.lineWidth = width;
    this.context.beginPath();
    this.context.arc(x, y, radius, 0, 2 * Math.PI);
    this.context.stroke();
  }

  drawPolygon() {
    if (!this.polygon) return;
    const context = this.context;
    context.beginPath();
    this.polygon.forEach(([x, y], k) => (k ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.closePath();
    context.globalAlpha = 0.15;
    context.fillStyle = this.accent;
    context.fill();
    context.globalAlpha = 1;
    context.strokeStyle = this.accent;
    context.lineWidth = 2;
    context.stroke();
  }

  // Where Enter would open an image, for those who use the keyboard.
  drawCross() {
    const [x, y] = [this.width / 2, this.height / 2];
    this.context.strokeStyle = this.ink;
    this.context.lineWidth = 1.5;
    this.context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      this.context.moveTo(x + 5 * dx, y + 5 * dy);
      this.context.lineTo(x + 14 * dx, y + 14 * dy);
    }
    this.context.stroke();
  }

  // ---- pointers and keys

  say(name, detail = {}) { this.dispatchEvent(new CustomEvent(name, { detail })); }

  listen() {
    const canvas = this.canvas;
    const pointers = new Map();
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    let moved = 0;
    const end = (event) => {
      if (!pointers.delete(event.pointerId)) return;
      canvas.classList.remove("grabbing");
      if (this.polygon) this.endLasso(event.type === "pointerup");
      else if (event.type === "pointerup" && moved < 5 && !pointers.size) {
        const reach = event.pointerType === "touch" ? 24 : ImageMap.REACH;
        this.say("choose", { image: this.imageAt(...place(event), reach) });
      }
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button > 0) return;
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, place(event));
      if (pointers.size === 1) moved = 0;
      this.showCross = false;
      this.say("hover", { image: -1 });
      if (pointers.size === 1 && (this.mode === "lasso" || event.shiftKey)) {
        this.polygon = [place(event)];
      } else if (this.polygon) {  // a second finger moves the map instead
        this.polygon = null;
        this.draw();
      }
    });
    canvas.addEventListener("pointermove", (event) => {
      const here = place(event);
      const before = pointers.get(event.pointerId);
      if (!before) {
        if (event.pointerType !== "touch") this.hover(...here);
        return;
      }
      const [dx, dy] = [here[0] - before[0], here[1] - before[1]];
      moved += Math.abs(dx) + Math.abs(dy);
      if (this.polygon) {
        this.polygon.push(here);
        this.draw();
      } else if (pointers.size === 1) {
        if (moved >= 5) {
          canvas.classList.add("grabbing");
          this.panBy(dx, dy);
        }
      } else if (pointers.size === 2) {
        const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, p]) => p);
        const distance = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
        this.panBy(dx / 2, dy / 2);
        this.zoomBy(
          distance(here) / distance(before), (here[0] + other[0]) / 2, (here[1] + other[1]) / 2,
        );
      }
      pointers.set(event.pointerId, here);
    });
    canvas.addEventListener("pointerup", end);
    canvas.addEventListener("pointercancel", end);
    canvas.addEventListener("pointerleave", () => this.say("hover", { image: -1 }));
    canvas.addEventListener("dblclick", (event) => this.zoomBy(2, ...place(event)));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const unit = event.deltaMode === 1 ? 30 : 1;
      const turn = Math.max(-120, Math.min(120, event.deltaY * unit));
      this.zoomBy(2 ** (-turn / (event.ctrlKey ? 40 : 200)), ...place(event));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("focus", () => {
      this.showCross = canvas.matches(":focus-visible");
      this.draw();
    });
    canvas.addEventListener("blur", () => {
      this.showCross = false;
      this.draw();
    });
  }

  hover(px, py) {
    this.hovering = [px, py];
    if (this.hoverPending) return;
    this.hoverPending = true;
    requestAnimationFrame(() => {
      this.hoverPending = false;
      const [x, y] = this.hovering;
      const image = this.imageAt(x, y);
      this.canvas.classList.toggle("pointing", image >= 0 && this.mode === "pan");
      this.say("hover", { image, x, y });
    });
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = event.shiftKey ? 200 : 60;
    const actions = {
      ArrowLeft: () => this.panBy(step, 0),
      ArrowRight: () => this.panBy(-step, 0),
      ArrowUp: () => this.panBy(0, step),
      ArrowDown: () => this.panBy(0, -step),
      "+": () => this.zoomBy(1.5),
      "=": () => this.zoomBy(1.5),
      "-": () => this.zoomBy(1 / 1.5),
      "0": () => this.fit(),
      Enter: () => this.say("choose", {
        image: this.imageAt(this.width / 2, this.height / 2, Math.min(this.width, this.height)),
        byKey: true,
      }),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    this.showCross = true;
    actions[event.key]();
    this.draw();
  }

  endLasso(whole) {
    const polygon = this.polygon;
    this.polygon = null;
    this.draw();
    if (!whole) return;
    const worlds = polygon.map(([x, y]) => this.world(x, y));
    const xs = worlds.map(([x]) => x);
    const ys = worlds.map(([, y]) => y);
    const found = [];
    const count = this.find(Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys));
    for (let k = 0; k < count; k++) {
      const i = this.inView[k];
      if (this.ranks[i] && ImageMap.inside(worlds, this.x[i], this.y[i])) found.push(i);
    }
    this.say("lasso", { images: found.sort((a, b) => a - b), tiny: polygon.length < 4 });
  }

  // Whether a point lies within a polygon: a ray from it crosses the edge an odd number of times.
  static inside(polygon, x, y) {
    let within = false;
    for (let k = 0, last = polygon.length - 1; k < polygon.length; last = k++) {
      const [ax, ay] = polygon[k];
      const [bx, by] = polygon[last];
      if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) within = !within;
    }
    return within;
  }
}
