"use strict";
// What all pages need: their data, and the choice of light or dark.
const page = (() => {
  const TYPES = {
    int8: Int8Array, uint8: Uint8Array, int16: Int16Array, uint16: Uint16Array,
    int32: Int32Array, uint32: Uint32Array, float32: Float32Array,
  };

  function bytes(base64) {
    const text = atob(base64);
    const result = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) result[i] = text.charCodeAt(i);
    return result.buffer;
  }

  // The data that Python wrote, with typed arrays.
  function data() {
    const revive = (_, value) => value && value.$array
      ? new TYPES[value.$array](bytes(value.base64)) : value;
    return JSON.parse(document.getElementById("page-data").textContent, revive);
  }

  // The URL of a picture, or null as long as the browser has not read as far.
  function picture(name) {
    const element = document.querySelector(`script[data-picture="${CSS.escape(name)}"]`);
    // Until something follows it, its text may be incomplete.
    if (!element || (document.readyState === "loading" && !element.nextElementSibling)) return null;
    return `data:${element.type};base64,${element.textContent}`;
  }

  // An element with attributes and children; a string among these is text, never HTML.
  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value === true) made.setAttribute(name, "");
      else if (value !== false && value != null) made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  // Hands a text to the person as a file.
  function save(name, text, type) {
    const url = URL.createObjectURL(new Blob([text], { type }));
    element("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
  }

  // Puts a text on the clipboard; returns a promise of whether it is there.
  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {  // not allowed, or no such thing: the old way
      const focused = document.activeElement;
      const area = element("textarea", { class: "visually-hidden", "aria-hidden": "true" });
      area.value = text;
      document.body.append(area);
      area.select();
      const copied = document.execCommand("copy");
      area.remove();
      if (focused) focused.focus();
      return copied;
    }
  }

  // Light or dark as the system has it, until a button with data-theme-toggle is pressed.
  function isDark() {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  function themeChanged() {
    for (const button of document.querySelectorAll("[data-theme-toggle]")) {
      button.setAttribute("aria-pressed", String(isDark()));
    }
    document.dispatchEvent(new Event("themechange"));
  }

  for (const button of document.querySelectorAll("[data-theme-toggle]")) {
    button.addEventListener("click", () => {
      document.documentElement.dataset.theme = isDark() ? "light" : "dark";
      themeChanged();
    });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", themeChanged);
  themeChanged();

  return { data, picture, element, save, copy, isDark };
})();
