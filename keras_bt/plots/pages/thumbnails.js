"use strict";
// Small pictures out of sheets that hold many: decoded when first looked at, forgotten when others
// are, because thousands of pictures decoded at once would be gigabytes.
class Thumbnails {
  static MOST_SHEETS = 40;

  // `sheets`: {cell, columns, count, slots, sizes}: image i is in cell slots[i], sizes[2i] wide and
  // sizes[2i + 1] high.
  constructor(sheets, onArrival) {
    Object.assign(this, sheets);
    this.perSheet = this.columns * this.columns;
    this.decoded = new Map();  // number → ImageBitmap, the longest unused first
    this.expected = new Map();  // number → promise of it
    this.onArrival = onArrival;
  }

  width(i) { return this.sizes[2 * i]; }
  height(i) { return this.sizes[2 * i + 1]; }

  // Draws image i into the box, in its proportions and centered; returns whether it was there.
  draw(context, i, x, y, side) {
    const number = Math.floor(this.slots[i] / this.perSheet);
    const sheet = this.decoded.get(number);
    if (!sheet) {
      this.load(number);
      return false;
    }
    this.decoded.delete(number);
    this.decoded.set(number, sheet);
    const place = this.slots[i] % this.perSheet;
    const [left, top] = [place % this.columns, Math.floor(place / this.columns)];
    const [w, h] = [this.width(i), this.height(i)];
    const scale = side / Math.max(w, h);
    context.imageSmoothingEnabled = scale < 2;  // pixels of tiny images should look like pixels
    context.drawImage(
      sheet, left * this.cell, top * this.cell, w, h,
      x + (side - w * scale) / 2, y + (side - h * scale) / 2, w * scale, h * scale,
    );
    return true;
  }

  load(number) {
    if (!this.expected.has(number)) {
      const promise = this.decode(number).finally(() => this.expected.delete(number));
      this.expected.set(number, promise);
    }
    return this.expected.get(number);
  }

  async decode(number) {
    let url = page.picture(`sheet-${number}`);
    if (!url) {  // the browser has not read as far
      if (document.readyState === "loading") {
        await new Promise((done) => document.addEventListener("DOMContentLoaded", done));
      }
      url = page.picture(`sheet-${number}`);
    }
    const image = new Image();
    image.src = url;
    await image.decode();
    this.decoded.set(number, await createImageBitmap(image));
    while (this.decoded.size > Thumbnails.MOST_SHEETS) {
      const [oldest, bitmap] = this.decoded.entries().next().value;
      this.decoded.delete(oldest);
      bitmap.close();
    }
    this.onArrival();
  }

  // Draws image i on a canvas of its own, as soon as it is there.
  async paint(canvas, i, side) {
    const pixels = Math.round(side * devicePixelRatio);
    canvas.width = canvas.height = pixels;
    const context = canvas.getContext("2d");
    // A sheet may be forgotten between its arrival and this.
    for (let tries = 0; tries < 3; tries++) {
      if (this.draw(context, i, 0, 0, pixels)) return;
      await this.load(Math.floor(this.slots[i] / this.perSheet));
    }
  }
}
