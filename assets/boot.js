// Runs before Gradio: the theme this browser chose last, and the page's language for Gradio's own words.
(() => {
  const query = new URLSearchParams(location.search);
  let chosen = null;
  try { chosen = localStorage.getItem("quantui-theme"); } catch { /* storage may be forbidden */ }
  const dark = chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  window.quantuiPaint = (dark) => {
    document.documentElement.style.colorScheme = dark ? "dark" : "light";
    document.documentElement.style.background = dark ? "#101216" : "#fafafb"; // body_background_fill of theme.py, before it is there
  };
  quantuiPaint(dark);
  const given = query.get("__theme");
  query.set("__theme", dark ? "dark" : "light"); // Gradio reads it from the address while it starts; live.js takes it out again
  if (given === null) history.replaceState(history.state, "", "?" + query);
  const lang = document.documentElement.lang;
  Object.defineProperty(navigator, "language", { get: () => lang, configurable: true });
  Object.defineProperty(navigator, "languages", { get: () => [lang], configurable: true });
  // While the page loads, Gradio 6.31 shows a wheel with a clock, and takes it away without stopping the clock, which goes on asking
  // for sixty frames a second. No clock of Gradio's is shown in this page, so none is wound.
  const frame = window.requestAnimationFrame.bind(window);
  const isClock = (text) => text.length < 100 && text.includes("performance.now()-") && text.includes("/1e3");
  window.requestAnimationFrame = (act) => (isClock(String(act)) ? 0 : frame(act));
})();
