// What every page does: light or dark, the pages of a report in one file, kinds of pictures, files inside the page.
"use strict";

const inline = (path) => document.getElementById(`inline:${path}`);

function fileUrl(path) {
  const found = inline(path);
  return found ? found.textContent : path;
}

function themes() {
  const button = document.getElementById("theme");
  const dark = () => {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };
  const say = () => { button.textContent = dark() ? "Light page" : "Dark page"; };
  button.hidden = false;
  button.addEventListener("click", () => {
    const chosen = dark() ? "light" : "dark";
    document.documentElement.dataset.theme = chosen;
    try { localStorage.setItem("convergence-theme", chosen); } catch { /* a browser that stores nothing */ }
    say();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", say);
  say();
}

function menu() {
  const details = document.querySelector(".menu details");
  const wide = matchMedia("(min-width: 1000px)");
  const set = () => { details.open = wide.matches; };
  wide.addEventListener("change", set);
  set();
}

function kinds() {
  for (const choice of document.querySelectorAll(".choice[data-kinds]")) {
    choice.hidden = false;
    choice.addEventListener("click", (event) => {
      const kind = event.target.dataset.kind;
      if (!kind) return;
      for (const button of choice.querySelectorAll("button")) {
        button.setAttribute("aria-pressed", String(button === event.target));
      }
      const sheets = JSON.parse(choice.dataset.kinds);
      for (const tile of choice.closest("article, main").querySelectorAll(".tile[data-gallery]")) {
        tile.classList.toggle("crisp", sheets[kind].crisp);
        tile.firstElementChild.dataset.src = sheets[kind].file;
        if (!inline(sheets[kind].file) || tile.firstElementChild.src !== "data:,") {
          tile.firstElementChild.src = fileUrl(sheets[kind].file);
        }
      }
    });
  }
}

function onePage() {
  const pages = document.querySelector("[data-pages]");
  if (!pages) return;
  const show = () => {
    const hash = decodeURIComponent(location.hash.slice(1));
    const slug = hash.startsWith("page/") ? hash.slice(5) : hash.startsWith("units/") ? "units" : "index";
    const articles = [...pages.children];
    const wanted = articles.find((article) => article.dataset.page === slug) || articles[0];
    if (wanted.classList.contains("shown")) return;
    for (const article of articles) article.classList.toggle("shown", article === wanted);
    for (const link of document.querySelectorAll(".menu a")) {
      if (link.dataset.page === wanted.dataset.page) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    scrollTo(0, 0);
  };
  addEventListener("hashchange", show);
  show();
}

function files() {
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-file]");
    if (!link) return;
    event.preventDefault();
    const save = document.createElement("a");
    save.href = fileUrl(link.dataset.file);
    save.download = link.dataset.file.split("/").pop();
    save.click();
  });
}

function inlined() {
  for (const image of document.querySelectorAll("img[data-src]")) {
    const set = () => { image.src = fileUrl(image.dataset.src); };
    if (!("IntersectionObserver" in window)) { set(); continue; }
    const seen = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) { set(); seen.disconnect(); }
    });
    seen.observe(image.parentElement);
  }
}

themes();
menu();
inlined();
kinds();
onePage();
files();
