// The unit browser: data come as scripts, a file for each net of each layer, when they are needed.
"use strict";

(() => {
  const place = document.getElementById("unit");
  if (!place) return;
  const { layers, kinds } = JSON.parse(document.getElementById("units-manifest").textContent);
  const prefix = document.querySelector("[data-pages]") ? "units/" : "";
  const loaded = new Map();
  const waiting = new Map();
  const controls = {
    layer: document.getElementById("choose-layer"),
    net: document.getElementById("choose-net"),
    unit: document.getElementById("choose-unit"),
    problem: document.getElementById("unit-problem"),
  };
  let at = null;
  let kind = "patches";

  window.unitData = (file, data) => {
    loaded.set(file, data);
    waiting.get(file)?.(data);
  };

  function load(file) {
    if (loaded.has(file)) return Promise.resolve(loaded.get(file));
    const found = document.getElementById(`inline:${file}`);
    if (found) {
      loaded.set(file, JSON.parse(found.textContent));
      return Promise.resolve(loaded.get(file));
    }
    return new Promise((resolve, reject) => {
      waiting.set(file, resolve);
      const script = document.createElement("script");
      script.src = file;
      script.onerror = () => reject(new Error(`${file} is missing: the report's folder is not complete`));
      document.head.append(script);
    });
  }

  function el(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === true) made.setAttribute(name, "");
      else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }

  const page = prefix ? "" : "units.html";
  const hashOf = (layer, net, unit) => `#${prefix}${[layer, net, unit].map(encodeURIComponent).join("/")}`;
  const known = (value) => value !== null && value !== undefined;
  const fixed = (value, digits = 3) => (known(value) ? value.toFixed(digits) : "–");
  const short = (value) => (known(value) ? String(Number(value.toPrecision(3))) : "–");
  const rough = (value) => (known(value) ? String(Number(value.toPrecision(1))) : "–");
  const withError = (value, error) => (known(value) ? `${fixed(value)} ± ${fixed(error)}` : "–");
  const percent = (value) => (known(value) ? `${Math.round(100 * value)} %` : "–");
  const chance = (p) => (!known(p) ? "–" : p < 0.001 ? "< .001" : p.toFixed(3).replace(/^0/, ""));

  function read() {
    let hash = location.hash.slice(1);
    if (prefix && !hash.startsWith(prefix)) hash = "";
    const [layer, net, unit] = hash.slice(prefix.length).split("/").map((part) => {
      try { return decodeURIComponent(part); } catch { return part; }
    });
    const ofLayer = layers.find((one) => one.name === layer) || layers[0];
    const ofNet = ofLayer.nets.find((one) => one.name === net) || ofLayer.nets[0];
    return { layer: ofLayer, net: ofNet, unit: unit === undefined || unit === "" ? 0 : Number(unit) };
  }

  function options(select, names, chosen) {
    select.replaceChildren(...names.map((name) => el("option", { value: name, selected: name === chosen }, name)));
  }

  function tile(sheets, name, unit, size, wanted) {
    const sheet = sheets.find((one) => one.kind === wanted);
    if (!sheet) return null;
    const file = sheet.files[Math.floor(unit / sheet.per_sheet)];
    const index = unit % sheet.per_sheet;
    const style = `--c:${file.columns};--r:${file.rows};--x:${index % file.columns};` +
      `--y:${Math.floor(index / file.columns)};--a:${file.width / file.height}`;
    const image = el("img", { src: fileUrl(file.file), alt: `${kinds[wanted].about}: unit ${unit} of ${name}`,
      loading: "lazy" });
    return el("span", { class: `tile ${size}${sheet.crisp ? " crisp" : ""}`, style }, image);
  }

  function link(net, unit, size) {
    if (unit === null || unit === undefined || unit < 0) return el("span", {}, "none");
    const of = at.layer.nets.find((one) => one.name === net);
    const small = size && of ? tile(of.sheets, net, unit, size, "patches") : null;
    return el("a", { class: "part", href: page + hashOf(at.layer.name, net, unit) }, small, el("span", { class: "no" },
      `unit ${unit}`));
  }

  function table(caption, heads, rows) {
    return el("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": caption },
      el("table", {}, el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))),
        el("tbody", {}, ...rows.map((row) => el("tr", {}, el("th", { scope: "row" }, row[0]),
          ...row.slice(1).map((cell) => el("td", {}, cell)))))));
  }

  function facts(data, unit) {
    const s = data.stats;
    const rows = [
      ["mean activation", known(s.mean[unit]) ? `${short(s.mean[unit])} ± ${rough(s.mean_error[unit])}` : "–"],
      ["standard deviation", short(s.standard_deviation[unit])],
    ];
    if (s.zero_fraction) {
      rows.push(["zero in", percent(s.zero_fraction[unit])], ["median", short(s.median[unit])],
        ["90th percentile", short(s.percentile_90[unit])], ["99th percentile", short(s.percentile_99[unit])]);
    }
    const about = data.pictures;
    if (about && about.top && known(about.top[unit][0])) rows.push(["strongest activation", short(about.top[unit][0])]);
    if (about && about.made && known(about.made[unit][0])) {
      rows.push(["maximised image reaches", short(Math.max(...about.made[unit].filter(known)))]);
    }
    return el("ul", { class: "facts" }, ...rows.map(([name, value]) => el("li", {}, el("span", {}, name),
      el("strong", {}, value))));
  }

  function pictures(data, unit) {
    const sheets = at.net.sheets;
    if (!sheets.length) return null;
    if (!sheets.some((sheet) => sheet.kind === kind)) kind = sheets[0].kind;
    const choice = el("div", { class: "choice", role: "group", "aria-label": "Pictures" });
    for (const sheet of sheets) {
      const button = el("button", { type: "button", "aria-pressed": String(sheet.kind === kind) }, kinds[sheet.kind].word);
      button.addEventListener("click", () => {
        kind = sheet.kind;
        draw(data);
        document.querySelector(".choice button[aria-pressed=true]")?.focus();
      });
      choice.append(button);
    }
    const about = data.pictures;
    const words = [kinds[kind].about];
    if (about && kind === "patches") {
      words.push(about.kind === "whole" ? "the unit sees whole images"
        : `the unit sees ${about.field[0]} × ${about.field[1]} pixels`);
    }
    return el("div", {}, choice, tile(sheets, at.net.name, unit, "big", kind), el("p", { class: "note" },
      `${words.join("; ")}.`.replace(/^./, (letter) => letter.toUpperCase())));
  }

  function others(data, unit) {
    const names = Object.keys(data.others);
    const has = (column) => names.some((name) => data.others[name][column]);
    const heads = ["net", "matched", "r", "held out", "best", "r", "chance", "p"];
    if (has("informative")) heads.push("by information", "nats");
    const rows = names.map((name) => {
      const o = data.others[name];
      const paired = o.matched[unit] >= 0;
      const row = [name, link(name, o.matched[unit], "small"),
        paired ? withError(o.matched_r[unit], o.matched_error[unit]) : "–",
        paired ? fixed(o.matched_held_out[unit]) : "–",
        link(name, o.best[unit], "small"), withError(o.best_r[unit], o.best_error[unit]), fixed(o.null[unit]),
        chance(o.p[unit])];
      if (o.informative) {
        const informed = o.informative[unit] >= 0;
        row.push(link(name, o.informative[unit], "small"), informed ? withError(o.nats[unit], o.nats_error[unit]) : "–");
      }
      return row;
    });
    const missing = Object.entries(data.no_results).map(([name, why]) => `${name}: ${why}`);
    return el("section", {}, el("h3", {}, "In the other nets"), table("Partners in the other nets", heads, rows),
      el("p", { class: "note" }, "Matched: one to one. Best: the partner with the highest r. Chance: the best unit of a net " +
        "in another basis, and the probability that such a unit reaches r (p). By information: one to one by mutual information."),
      missing.length ? el("p", { class: "note" }, `No results with ${missing.join("; ")}.`) : null);
  }

  function recipes(data, unit) {
    const names = Object.keys(data.others).filter((name) => data.others[name].recipe?.[unit]?.length);
    if (!names.length) return null;
    const items = names.map((name) => {
      const o = data.others[name];
      const sum = el("div", { class: "sum" }, "≈");
      o.recipe[unit].forEach(([other, weight], k) => {
        const size = Math.abs(weight).toFixed(2).replace(/^0/, "");
        const sign = weight < 0 ? "− " : k ? "+ " : "";
        sum.append(el("span", { class: "term" }, `${sign}${size} ×`, link(name, other, "small")));
      });
      const needed = o.units_for_90[unit];
      const words = needed > 0 ? `; ${needed} unit${needed > 1 ? "s" : ""} reach 90 % of what all explain`
        : needed < 0 ? "; more units than were tried are needed for 90 % of what all explain" : "; all units explain little";
      return el("li", {}, el("strong", {}, name), sum, el("span", { class: "note" },
        `explains ${percent(o.explained[unit])} of its variance (most on other images: ` +
        `${percent(o.most_explained[unit])})${words}`));
    });
    return el("section", {}, el("h3", {}, "As a sum of units of another net"), el("p", { class: "note" },
      "By the LASSO at the largest penalty that holds on other images; standardised units, strongest terms."),
      el("ul", { class: "recipe" }, ...items));
  }

  function clusters(data, unit) {
    const items = Object.entries(data.others).filter(([, o]) => o.cluster && o.cluster[unit] >= 0).map(([name, o]) => {
      const number = o.cluster[unit];
      const here = o.cluster.flatMap((label, other) => (label === number && other !== unit ? [other] : []));
      const there = o.cluster_other.filter(([, label]) => label === number).map(([other]) => other);
      const list = (net, units) => units.slice(0, 24).flatMap((other, k) => (k ? [", ", link(net, other)]
        : [link(net, other)])).concat(units.length > 24 ? [` and ${units.length - 24} more`] : []);
      return el("li", {}, el("strong", {}, `with ${name}: cluster ${number}`), el("div", {}, `${at.net.name}: `,
        ...(here.length ? list(at.net.name, here) : ["no other unit"])), el("div", {}, `${name}: `,
        ...(there.length ? list(name, there) : ["no unit"])));
    });
    return items.length ? el("section", {}, el("h3", {}, "Its cluster"), el("ul", { class: "recipe" }, ...items)) : null;
  }

  function consensus(data, unit) {
    const found = data.consensus;
    if (!found || found.of[unit] < 0) return null;
    const k = found.of[unit];
    const members = found.nets.map((net, j) => el("div", { class: "part" }, el("span", { class: "word" }, net),
      link(net, found.members[k][j], "small")));
    return el("section", {}, el("h3", {}, "Over all nets"), el("p", {}, `Member of consensus unit ${k}: present in ` +
      `${found.n_nets[k]} of ${found.nets.length} nets, members correlate at ${withError(found.r[k], found.error[k])} ` +
      "on average."), el("div", { class: "parts" }, ...members));
  }

  function draw(data) {
    const { layer, net, unit } = at;
    const name = `${layer.name} · ${net.name} · unit ${unit}`;
    const why = data.left_out[unit];
    const dead = data.pictures?.dead?.includes(unit);
    const shown = pictures(data, unit);
    place.replaceChildren(...[
      el("h2", { id: "unit-name", tabindex: "-1" }, name),
      why ? el("p", { class: "notice" }, `This unit is left out of every comparison: ${why}.`)
        : dead ? el("p", { class: "notice" }, "No image of the evaluation excites this unit.") : null,
      el("div", { class: `unit-head${shown ? " pictured" : ""}` }, shown, facts(data, unit)),
      ...(why ? [] : [others(data, unit), consensus(data, unit), recipes(data, unit), clusters(data, unit)]),
    ].filter((part) => part));
    document.getElementById("unit-status").textContent = name;
  }

  async function show() {
    const wanted = read();
    const changed = !at || at.layer !== wanted.layer || at.net !== wanted.net;
    at = wanted;
    options(controls.layer, layers.map((one) => one.name), at.layer.name);
    options(controls.net, at.layer.nets.map((one) => one.name), at.net.name);
    controls.unit.max = at.net.units - 1;
    if (changed || document.activeElement !== controls.unit) controls.unit.value = at.unit;
    const ok = Number.isInteger(at.unit) && at.unit >= 0 && at.unit < at.net.units;
    controls.problem.textContent = ok ? "" : `${at.net.name} has units 0 to ${at.net.units - 1} in ${at.layer.name}.`;
    if (!ok) {
      place.replaceChildren();
      return;
    }
    try {
      const data = await load(at.net.file);
      if (at === wanted) draw(data);
    } catch (error) {
      controls.problem.textContent = error.message;
      place.replaceChildren();
    }
  }

  function go(layer, net, unit, replace) {
    const hash = hashOf(layer, net, unit);
    if (replace) {
      history.replaceState(null, "", hash);
      show();
    } else location.hash = hash;
  }

  function step(by) {
    const next = at.unit + by;
    if (next >= 0 && next < at.net.units) go(at.layer.name, at.net.name, next, true);
  }

  controls.layer.addEventListener("change", () => {
    const layer = layers.find((one) => one.name === controls.layer.value);
    const net = layer.nets.find((one) => one.name === at.net.name) || layer.nets[0];
    go(layer.name, net.name, Math.min(at.unit, net.units - 1));
  });
  controls.net.addEventListener("change", () => {
    const net = at.layer.nets.find((one) => one.name === controls.net.value);
    go(at.layer.name, net.name, Math.min(at.unit, net.units - 1));
  });
  controls.unit.addEventListener("input", () => {
    if (controls.unit.value !== "") go(at.layer.name, at.net.name, Number(controls.unit.value), true);
  });
  document.getElementById("previous-unit").addEventListener("click", () => step(-1));
  document.getElementById("next-unit").addEventListener("click", () => step(1));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || place.offsetParent === null) return;
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "/" && !typing) {
      event.preventDefault();
      controls.unit.focus();
      controls.unit.select();
    } else if (event.key === "ArrowLeft" && !typing && !event.target.closest(".scroll")) step(-1);
    else if (event.key === "ArrowRight" && !typing && !event.target.closest(".scroll")) step(1);
  });
  addEventListener("hashchange", show);
  show();
})();
