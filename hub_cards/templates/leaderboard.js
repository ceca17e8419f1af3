"use strict";
// Everything that comes from the rows goes into the document by textContent or setAttribute, never as markup.
(() => {
  const rows = JSON.parse(document.getElementById("rows").textContent);
  const el = (id) => document.getElementById(id);
  const make = (tag, text, cls) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (cls) node.className = cls;
    return node;
  };
  const one = (x) => x.toFixed(1).replace("-", "−").replace(/^−0\.0$/, "0.0");
  const signed = (x) => (x >= 0.05 ? "+" : "") + one(x);
  const certain = (e) => e.length === 3 && e[1] !== null && e[2] !== null;
  const range = (e, show) => (certain(e) ? `${show(e[1])} to ${show(e[2])}` : "");
  const safe = (url) => /^(https:\/\/|http:\/\/(127\.0\.0\.1|localhost)(:\d+)?\/)/.test(url) || !/^(\/|[^/]*:)/.test(url);

  // ---- columns -----------------------------------------------------------------------------------------------
  const score = (name) => (row) => {
    const cell = make("td");
    const e = row[name];
    if (!e) return make("td", "–", "none");
    cell.append(one(e[0]));
    if (certain(e)) cell.append(make("small", range(e, one)));
    return cell;
  };
  const change = (name) => (row) => {
    const e = row[name];
    if (!e) return make("td", "–", "none");
    const open = certain(e) && e[1] <= 0 && e[2] >= 0;
    const cell = make("td", undefined, open ? "unsure" : e[0] > 0 ? "up" : "down");
    cell.append(signed(e[0]));
    if (certain(e)) cell.append(make("small", range(e, signed)));
    return cell;
  };
  const number = (text) => (text === "" || isNaN(text) ? Infinity : Number(text));
  const narrow = window.innerWidth < 640;
  const all = [
    { name: "Model", key: (r) => r.model.toLowerCase(), first: "ascending" },
    { name: "Frames", key: (r) => number(r.frames), cell: (r) => make("td", r.frames), first: "ascending" },
    { name: "Image", key: (r) => r.image && r.image[0], cell: score("image"), first: "descending" },
    { name: "Video", key: (r) => r.video && r.video[0], cell: score("video"), first: "descending" },
    { name: "Image change", key: (r) => r.image_change && r.image_change[0], cell: change("image_change"), first: "descending" },
    { name: "Video change", key: (r) => r.video_change && r.video_change[0], cell: change("video_change"), first: "descending" },
    { name: "Mean frames", key: (r) => r.mean_frames, cell: (r) => r.mean_frames === undefined ? make("td", "–", "none") : make("td", one(r.mean_frames).replace(/\.0$/, "")), first: "ascending" },
    { name: "Records", key: (r) => r.date, first: "descending", cell: (r) => {
      const cell = make("td", undefined, "left");
      if (r.records && safe(r.records)) {
        const link = make("a", "records");
        link.href = r.records;
        link.rel = "noopener noreferrer";
        cell.append(link);
      }
      if (r.date) cell.append(make("small", r.date));
      return cell;
    } },
  ];
  // What the page is about comes first where not everything fits beside each other.
  const columns = narrow ? [0, 4, 5, 1, 2, 3, 6, 7].map((i) => all[i]) : all;
  const state = { column: columns.indexOf(all[3]), order: "descending" };

  // ---- table -------------------------------------------------------------------------------------------------
  const head = document.querySelector("thead tr");
  const body = document.querySelector("tbody");
  columns.forEach((column, i) => {
    const cell = make("th", undefined, column.name === "Records" ? "left" : "");
    cell.scope = "col";
    const button = make("button", column.name);
    button.type = "button";
    button.addEventListener("click", () => {
      state.order = state.column !== i ? column.first : state.order === "ascending" ? "descending" : "ascending";
      state.column = i;
      draw();
    });
    cell.append(button);
    head.append(cell);
  });

  const detail = (row) => {
    const tr = make("tr", undefined, "detail");
    const td = make("td");
    td.colSpan = columns.length;
    const list = make("dl");
    const add = (name, value) => {
      if (value === undefined || value === "") return;
      const box = make("div");
      box.append(make("dt", name), make("dd", value));
      list.append(box);
    };
    for (const [name, e] of Object.entries(row.tasks || {})) add(name, one(e[0]) + (certain(e) ? ` (${range(e, one)})` : ""));
    add("base", row.base);
    add("trained with", row.trained);
    add("questions", row.items === undefined ? undefined : row.items.toLocaleString("en"));
    add("note", row.notes);
    if (row.synthetic) add("data", "synthetic");
    td.append(list);
    tr.append(td);
    return tr;
  };
  // Row elements are built once and then only moved.
  for (const row of rows) {
    row.search = [row.model, row.base, row.notes, row.frames, row.trained].join(" ").toLowerCase();
    const tr = make("tr");
    const th = make("th");
    th.scope = "row";
    const button = make("button");
    // A long name may be broken after a slash, so that what follows stays in one piece.
    row.model.split(/(?<=\/)/).forEach((part, i) => button.append(...(i ? [make("wbr")] : []), part));
    button.type = "button";
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", () => {
      const open = button.getAttribute("aria-expanded") === "true";
      button.setAttribute("aria-expanded", String(!open));
      if (open) { row.detail.remove(); row.detail = undefined; }
      else { row.detail = detail(row); tr.after(row.detail); }
    });
    th.append(button);
    if (row.base) th.append(make("small", `from ${row.base}`, "from"));
    if (row.trained) th.append(make("small", `trained with ${row.trained}`));
    if (row.synthetic) th.append(make("small", "synthetic"));
    tr.append(th, ...columns.slice(1).map((column) => column.cell(row)));
    tr.addEventListener("mouseenter", () => pick(row));
    row.tr = tr;
  }

  const options = (id, values, order) => {
    for (const value of [...new Set(values)].sort(order)) {
      const option = make("option", value);
      option.value = value;
      el(id).append(option);
    }
  };
  options("frames", rows.map((r) => r.frames), (a, b) => number(a) - number(b) || (a < b ? -1 : 1));
  options("base", rows.filter((r) => r.base).map((r) => r.base));

  const compare = (a, b) => {
    const { key } = columns[state.column];
    const [x, y] = [key(a), key(b)];
    // What has no value comes last, whichever way we sort.
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
    if (x === y) return 0;
    return (x < y ? -1 : 1) * (state.order === "ascending" ? 1 : -1);
  };
  const grouped = (list) => {
    const groups = new Map();
    for (const row of list) {
      const name = JSON.stringify([row.base || row.model, row.frames]); // what is compared with each other
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push(row); // list is sorted, so the groups come in the order of their best row
    }
    return [...groups.values()].flatMap((g) => [...g.filter((r) => !r.base), ...g.filter((r) => r.base)]);
  };
  let shown = [];
  const draw = () => {
    const words = el("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const [frames, base] = [el("frames").value, el("base").value];
    shown = rows.filter((r) =>
      words.every((w) => r.search.includes(w)) &&
      (!frames || r.frames === frames) &&
      (!base || r.base === base || (!r.base && r.model === base)));
    shown.sort(compare);
    const beside = el("group").checked;
    if (beside) shown = grouped(shown);
    const fragment = document.createDocumentFragment();
    let lead; // a fine-tune whose base is filtered out or was not scored says itself what it came from
    for (const row of shown) {
      if (!row.base) lead = row;
      const below = lead && row.base === lead.model && row.frames === lead.frames;
      row.tr.className = !beside ? "" : !row.base ? "lead" : below ? "child" : "";
      fragment.append(row.tr);
      if (row.detail) fragment.append(row.detail);
    }
    body.replaceChildren(fragment);
    [...head.children].forEach((th, i) => {
      if (i === state.column) th.setAttribute("aria-sort", state.order);
      else th.removeAttribute("aria-sort");
    });
    const models = new Set(shown.map((r) => r.model)).size;
    el("count").textContent = shown.length
      ? `${shown.length} of ${rows.length} rows, ${models} ${models === 1 ? "model" : "models"}`
      : rows.length ? "No row matches. Clear the filters to see all." : "No results yet.";
    const visible = new Set(shown);
    for (const row of points) for (const node of row.marks) node.classList.toggle("dim", !visible.has(row));
  };
  for (const id of ["frames", "base", "group"]) el(id).addEventListener("change", draw);
  let waiting = 0;
  el("find").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(draw, 80); });

  // ---- picture -----------------------------------------------------------------------------------------------
  const svg = (tag, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const points = rows.filter((r) => r.image_change && r.video_change);
  const [width, height] = narrow ? [400, 360] : [736, 420];
  const box = { left: 48, right: width - 12, top: 12, bottom: height - 44 };
  const bars = points.length <= 60;
  const extent = (name) => {
    const values = points.flatMap((r) => (bars && certain(r[name]) ? r[name] : [r[name][0]]));
    // Not by spreading into Math.min: thousands of arguments are too many for some engines.
    const low = values.reduce((a, b) => Math.min(a, b), -1);
    const high = values.reduce((a, b) => Math.max(a, b), 1);
    const room = (high - low) * 0.08;
    return [low - room, high + room];
  };
  const step = (span) => [0.5, 1, 2, 5, 10, 20, 50].find((s) => span / s <= (narrow ? 6 : 9)) || 100;
  const picture = () => {
    const [x0, x1] = extent("image_change");
    const [y0, y1] = extent("video_change");
    const x = (v) => box.left + ((v - x0) / (x1 - x0)) * (box.right - box.left);
    const y = (v) => box.bottom - ((v - y0) / (y1 - y0)) * (box.bottom - box.top);
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img",
      "aria-label": `${points.length} fine-tuned models. The table below holds the same numbers.` });
    root.append(
      svg("rect", { class: "trap", x: box.left, y: box.top, width: x(0) - box.left, height: y(0) - box.top }),
      svg("rect", { class: "good", x: x(0), y: box.top, width: box.right - x(0), height: y(0) - box.top }));
    for (let v = Math.ceil(x0 / step(x1 - x0)) * step(x1 - x0); v <= x1; v += step(x1 - x0)) {
      root.append(svg("line", { class: "grid", x1: x(v), x2: x(v), y1: box.top, y2: box.bottom }),
        svg("text", { x: x(v), y: box.bottom + 16, "text-anchor": "middle" }, signed(v).replace(/\.0$/, "")));
    }
    for (let v = Math.ceil(y0 / step(y1 - y0)) * step(y1 - y0); v <= y1; v += step(y1 - y0)) {
      root.append(svg("line", { class: "grid", x1: box.left, x2: box.right, y1: y(v), y2: y(v) }),
        svg("text", { x: box.left - 6, y: y(v) + 4, "text-anchor": "end" }, signed(v).replace(/\.0$/, "")));
    }
    root.append(
      svg("line", { class: "axis", x1: x(0), x2: x(0), y1: box.top, y2: box.bottom }),
      svg("line", { class: "axis", x1: box.left, x2: box.right, y1: y(0), y2: y(0) }),
      svg("text", { x: (box.left + box.right) / 2, y: height - 8, "text-anchor": "middle" }, "image change (points)"),
      svg("text", { x: 12, y: (box.top + box.bottom) / 2, "text-anchor": "middle",
        transform: `rotate(-90 12 ${(box.top + box.bottom) / 2})` }, "video change (points)"));
    if (x(0) - box.left > 130) root.append(svg("text", { x: box.left + 8, y: box.top + 18 }, narrow ? "the trap" : "the temporal trap"));
    if (box.right - x(0) > 90) root.append(svg("text", { x: box.right - 8, y: box.top + 18, "text-anchor": "end" }, "both gain"));
    for (const row of points) {
      const [cx, cy] = [x(row.image_change[0]), y(row.video_change[0])];
      row.at = [cx, cy];
      row.marks = [];
      if (bars && certain(row.image_change)) row.marks.push(svg("line", { class: "bar", x1: x(row.image_change[1]), x2: x(row.image_change[2]), y1: cy, y2: cy }));
      if (bars && certain(row.video_change)) row.marks.push(svg("line", { class: "bar", x1: cx, x2: cx, y1: y(row.video_change[1]), y2: y(row.video_change[2]) }));
      row.marks.push(svg("circle", { class: "mark", cx, cy, r: points.length > 200 ? 4 : 6 }));
      root.append(...row.marks);
    }
    el("chart").replaceChildren(root);
    root.addEventListener("mousemove", (event) => {
      const frame = root.getBoundingClientRect();
      const at = [((event.clientX - frame.left) * width) / frame.width, ((event.clientY - frame.top) * height) / frame.height];
      pick(nearest(at, 24));
    });
    root.addEventListener("click", (event) => {
      const frame = root.getBoundingClientRect();
      pick(nearest([((event.clientX - frame.left) * width) / frame.width, ((event.clientY - frame.top) * height) / frame.height], 60));
    });
  };
  const nearest = ([px, py], within) => {
    const visible = new Set(shown);
    let [best, least] = [undefined, within];
    for (const row of points) {
      const away = Math.hypot(row.at[0] - px, row.at[1] - py);
      if (visible.has(row) && away < least) [best, least] = [row, away];
    }
    return best;
  };
  let picked;
  const pick = (row) => {
    if (!row || row === picked || !row.marks) return;
    if (picked) for (const node of picked.marks) node.classList.remove("picked");
    picked = row;
    for (const node of row.marks) { node.classList.add("picked"); node.parentNode.append(node); }
    const part = (name, e) => `${name} ${signed(e[0])}${certain(e) ? ` (${range(e, signed)})` : ""}`;
    el("readout").textContent = `${row.model}, ${row.frames} frames${row.base ? `, from ${row.base}` : ""}: ` +
      `${part("image", row.image_change)}, ${part("video", row.video_change)}`;
  };
  el("chart").addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (!move) return;
    event.preventDefault();
    const visible = new Set(shown);
    const order = points.filter((r) => visible.has(r)).sort((a, b) => a.at[0] - b.at[0]);
    if (order.length) pick(order[(order.indexOf(picked) + move + order.length) % order.length]);
  });
  if (points.length) picture();
  else {
    el("readout").textContent = "No fine-tuned model has been scored beside its base yet.";
    el("chart").hidden = true;
  }
  draw();
})();
