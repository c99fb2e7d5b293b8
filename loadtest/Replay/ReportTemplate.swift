/// The page around a report: style and script, without anything from elsewhere. Immutable.
enum ReportTemplate {
    static let head = """
        <!doctype html>
        <html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
        <title>Load test report</title>
        <style>
        :root { color-scheme: light dark; --page: #f6f7f9; --card: #ffffff; --ink: #1c2430; --soft: #5b6675;
          --line: #dde2e9; --first: #2563c9; --second: #c2570c; --gray: #8a94a3; --good: #1a7f46; --bad: #c22f2f;
          --warn: #9a6b00; }
        @media (prefers-color-scheme: dark) { :root { --page: #12161c; --card: #1b212a; --ink: #e6eaf0; --soft: #9aa6b5;
          --line: #2d3642; --first: #6aa5ff; --second: #ff9c5a; --gray: #7d8896; --good: #54c98a; --bad: #ff7b7b;
          --warn: #e5b64a; } }
        * { box-sizing: border-box; }
        body { margin: 0; padding: 28px; background: var(--page); color: var(--ink);
          font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
        main { max-width: 1180px; margin: 0 auto; }
        h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 0 0 12px; }
        .sub { color: var(--soft); margin: 0 0 18px; overflow-wrap: anywhere; }
        section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px;
          margin: 0 0 18px; overflow-x: auto; }
        .pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 18px; }
        .pair > section { margin: 0; } .pair { margin-bottom: 18px; }
        .verdict { display: inline-block; padding: 1px 11px; border-radius: 20px; font-weight: 600; color: #fff;
          font-size: 14px; line-height: 1.6; vertical-align: 3px; }
        .equal { background: var(--good); } .different { background: var(--bad); } .unknown { background: var(--warn); }
        @media (prefers-color-scheme: dark) { .verdict { color: #10151b; } }
        table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
        th, td { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; }
        th { color: var(--soft); font-weight: 600; font-size: 13px; white-space: normal; vertical-align: bottom; } tr:last-child td { border-bottom: 0; }
        th.text { text-align: left; }
        td.text { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 110px; }
        td.code { text-align: left; white-space: normal; min-width: 260px; overflow-wrap: anywhere;
          font: 13px/1.45 ui-monospace, "DejaVu Sans Mono", Menlo, monospace; }
        .key { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 7px; }
        .key.dashes, .key.line { width: 18px; height: 0; border-radius: 0; border-top: 2px solid var(--gray);
          vertical-align: 4px; } .key.dashes { border-top-style: dashed; }
        .bad { color: var(--bad); font-weight: 600; } .errors { white-space: normal; min-width: 100px; } .warn { color: var(--warn); } .soft { color: var(--soft); }
        svg { display: block; width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 11px; }
        svg .grid { stroke: var(--line); stroke-width: 1; } svg path { fill: none; stroke-width: 2; }
        details { margin: 4px 0 0; } summary { cursor: pointer; color: var(--soft); }
        .sample { font: 12.5px/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, monospace; margin: 4px 0;
          overflow-wrap: anywhere; white-space: pre-wrap; }
        .legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 0 0 8px; color: var(--soft); font-size: 13px; }
        #tip { position: fixed; pointer-events: none; background: var(--ink); color: var(--card); padding: 4px 8px;
          border-radius: 6px; font-size: 12px; display: none; white-space: pre; z-index: 2; }
        ul { margin: 0; padding-left: 20px; } li { overflow-wrap: anywhere; white-space: pre-line; }
        @media (max-width: 640px) { body { padding: 12px; } section { padding: 14px; } h1 { font-size: 20px; }
          h1, h2 { overflow-wrap: anywhere; } th, td { padding: 5px 7px; } td.code { min-width: 180px; } }
        @media print { body { padding: 0; background: none; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
          section { overflow: visible; } .pair { grid-template-columns: 1fr 1fr; gap: 12px; } .pair > section, tr { break-inside: avoid; } td.code { min-width: 0; }
          table, th, td.code { font-size: 11px; } th, td { padding: 3px 5px; } }
        </style></head><body><main id="main"></main><div id="tip"></div>

        """

    static let script = #"""
        const colors = ["var(--first)", "var(--second)", "var(--good)", "var(--bad)"];
        const main = document.getElementById("main"), tip = document.getElementById("tip");
        const el = (tag, attributes = {}, ...children) => {
          const node = document.createElement(tag);
          for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
          for (const child of children) if (child != null) node.append(child);
          return node;
        };
        const ms = us => { const v = us / 1000; return v >= 100 ? v.toFixed(0) : v >= 10 ? v.toFixed(1) : v >= 1 ? v.toFixed(2) : v.toFixed(3); };
        const count = n => n.toLocaleString("en");
        const counted = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;
        const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
        // Seconds in the two largest units that they have.
        const duration = seconds => {
          if (seconds < 120) return `${seconds.toFixed(seconds < 1 ? 2 : 1)} s`;
          const first = units.findIndex(([size]) => seconds >= size), [size, word] = units[first], [next, nextWord] = units[first + 1];
          const whole = Math.round(seconds / next) * next;
          return `${Math.floor(whole / size)} ${word} ${whole % size / next} ${nextWord}`;
        };
        const sum = object => Object.values(object).reduce((a, b) => a + b, 0);
        // Sides of all reports, each with a colour of its own.
        const sides = reports.flatMap((report, r) => report.sides.map(side => ({ report, side,
          name: reports.length > 1 ? `${report.title}${report.sides.length > 1 ? ": " + side.name : ""}` : side.name })));
        for (const s of sides) if (sides.filter(o => o.name === s.name).length > 1) sides.filter(o => o.name === s.name).forEach((o, i) => o.name += ` (${i + 1})`);
        sides.forEach((s, i) => s.color = colors[i % colors.length]);
        const key = s => el("span", { class: "key", style: `background:${s.color}` });
        const section = (title, ...content) => el("section", {}, el("h2", {}, title), ...content);
        const table = (head, rows) => {
          const body = el("tbody");
          for (const row of rows) body.append(el("tr", {}, ...row.map((cell, i) => {
            if (cell instanceof Node && cell.tagName === "TD") return cell;
            return el("td", i === 0 ? { class: "text" } : {}, cell ?? "");
          })));
          return el("table", {}, el("thead", {}, el("tr", {}, ...head.map((h, i) =>
            el("th", i === 0 || h === "statement" || h === "why" ? { class: "text" } : {}, h)))), body);
        };
        const isChecked = side => side.sameAsCaptured + side.otherThanCaptured + side.otherDigests > 0;
        const hasOtherRows = report => report.kind === "replay" && report.verdict === "equal" && report.sides.some(s => s.otherDigests > 0);
        const words = report => {
          if (report.verdict === "different") return "different";
          if (report.verdict === "unknown") return report.kind === "bench" ? "incomplete" : "could not tell";
          if (report.kind === "bench") return "measured";
          if (report.kind === "replay" && !report.comparison) return !report.sides.some(isChecked) ? "played" : hasOtherRows(report) ? "as captured but for rows" : "as captured";
          return "equal";
        };
        const verdict = report => el("span", { class: `verdict ${hasOtherRows(report) ? "unknown" : report.verdict}` }, words(report));

        for (const report of reports) {
          main.append(el("h1", {}, report.title + " ", verdict(report)));
          const options = Object.entries(report.options).map(([k, v]) => `${k}: ${v}`).join(" · ");
          main.append(el("p", { class: "sub" }, `${report.startedAt} · ${duration(report.seconds)}${options ? " · " + options : ""}`));
        }

        // Numbers.
        const rows = [];
        const latency = l => [l.p50, l.p90, l.p99, l.p999, l.max].map(us => l.count ? ms(us) : "");
        const hasChecked = sides.some(s => isChecked(s.side));
        for (const report of reports) if (report.captured) {
          rows.push([el("td", { class: "text" }, el("span", { class: "key", style: "background:var(--gray)" }),
            reports.length > 1 ? `captured (${report.title})` : "captured"), count(report.captured.count), "", "", "", ...latency(report.captured), ...(hasChecked ? [""] : [])]);
        }
        for (const s of sides) {
          const errors = sum(s.side.errors), other = s.side.otherThanCaptured + s.side.otherDigests;
          rows.push([el("td", { class: "text" }, key(s), s.name), count(s.side.units), count(Math.round(s.side.units / Math.max(s.report.seconds, .001))),
            el("td", errors ? { class: "bad" } : {}, count(errors)), el("td", s.side.unitsLost ? { class: "bad" } : {}, count(s.side.unitsLost)),
            ...latency(s.side.response), ...(hasChecked ? [el("td", other ? { class: "warn" } : {}, isChecked(s.side) ? count(other) : "")] : [])]);
        }
        main.append(section("Units of work", el("p", { class: "sub" },
          "Latencies in ms, from when a unit was to be sent to the end of its answer: a late start counts."),
          table(["", "units", "per s", "errors", "lost", "p50", "p90", "p99", "p99.9", "max", ...(hasChecked ? ["other than captured"] : [])], rows)));
        const remarks = reports.flatMap(r => [...r.sides.flatMap(s => s.findings.map(f => `${s.name}: ${f}`)), ...r.notes]
          .map(words => reports.length > 1 ? `${r.title}: ${words}` : words));
        if (remarks.length) main.append(section("Remarks", el("ul", {}, ...remarks.map(w => el("li", {}, w)))));

        // Charts.
        const svg = (tag, attributes) => {
          const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
          for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
          return node;
        };
        const text = (x, y, words, anchor = "middle") => { const t = svg("text", { x, y, "text-anchor": anchor }); t.textContent = words; return t; };
        // Steps of an axis that ends at about so much, in about so many.
        const nice = size => { const p = 10 ** Math.floor(Math.log10(size)); return [1, 2, 5, 10].find(f => f * p >= size * .999) * p; };
        const steps = [.01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800];
        const timeTicks = end => {
          const step = steps.find(s => end / s <= 7) ?? Math.ceil(end / 6 / 604800) * 604800, [size, word] = units.find(([size]) => step >= size) ?? [1, "s"];
          return Array.from({ length: Math.floor(end / step + 1e-9) + 1 }, (_, i) => [i * step, `${+(i * step / size).toFixed(2)} ${word}`]);
        };
        const H = 250, L = 60, R = 22, T = 10, B = 30;
        const draw = (W, lines, { name, xMax, xTicks, yLog, yMax, yMin = 0, yWord, xLabel }) => {
          const root = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": name });
          const px = x => L + (W - L - R) * x / (xMax || 1);
          const step = Math.max(1, nice(yMax / 4)), top = yLog ? yMax : Math.max(1, Math.ceil(yMax / step)) * step;
          const lo = yLog ? Math.log10(yMin) : 0, hi = yLog ? Math.log10(top) : top;
          const py = y => H - B - (H - T - B) * Math.min(1, Math.max(0, ((yLog ? Math.log10(Math.max(y, yMin)) : y) - lo) / ((hi - lo) || 1)));
          const ticks = yLog ? Array.from({ length: Math.round(hi - lo) + 1 }, (_, i) => 10 ** (lo + i)) : Array.from({ length: Math.round(top / step) + 1 }, (_, i) => i * step);
          for (const y of ticks) { root.append(svg("line", { class: "grid", x1: L, x2: W - R, y1: py(y), y2: py(y) })); root.append(text(L - 7, py(y) + 4, yWord(y), "end")); }
          for (const [x, words] of xTicks) { root.append(svg("line", { class: "grid", x1: px(x), x2: px(x), y1: T, y2: H - B })); root.append(text(px(x), H - B + 19, words)); }
          for (const line of lines) {
            if (!line.points.length) continue;
            if (line.points.length === 1) root.append(svg("circle", { cx: px(line.points[0][0]), cy: py(line.points[0][1]), r: 3, fill: line.color }));
            let d = "", previous = null;
            for (const [x, y] of line.points) { d += previous && line.steps ? `L${px(x).toFixed(1)},${py(previous[1]).toFixed(1)}` : ""; d += `${d ? "L" : "M"}${px(x).toFixed(1)},${py(y).toFixed(1)}`; previous = [x, y]; }
            root.append(svg("path", { d, stroke: line.color, "stroke-dasharray": line.dash ?? "none", opacity: line.opacity ?? 1 }));
          }
          const show = event => {
            const box = root.getBoundingClientRect(), x = ((event.clientX - box.left) * W / box.width - L) / (W - L - R) * xMax;
            if (x < 0 || x > xMax) { tip.style.display = "none"; return; }
            const found = lines.filter(l => l.points.length).map(l => { let best = l.points[0]; for (const p of l.points) if (Math.abs(p[0] - x) < Math.abs(best[0] - x)) best = p; return `${l.name}: ${yWord(best[1])}`; });
            tip.textContent = [xLabel(x), ...found].join("\n");
            tip.style.display = "block";
            tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8))}px`; tip.style.top = `${event.clientY + 14}px`;
          };
          root.addEventListener("pointermove", show);
          root.addEventListener("pointerdown", show);
          root.addEventListener("pointerleave", () => tip.style.display = "none");
          return root;
        };
        // Drawn as wide as it is shown, so that its words are as large as all others.
        const chart = (lines, options) => {
          const host = el("div", {}, draw(560, lines, options));
          let width = 560;
          const redraw = now => { if (now !== width) host.replaceChildren(draw(width = now, lines, options)); };
          const fit = () => redraw(Math.round(Math.max(260, host.clientWidth)));
          new ResizeObserver(() => requestAnimationFrame(fit)).observe(host);
          addEventListener("beforeprint", () => redraw(330));
          addEventListener("afterprint", fit);
          return host;
        };
        const legend = (...lines) => el("div", { class: "legend" }, ...sides.map(s => el("span", {}, key(s), s.name)),
          ...lines.map(([kind, name]) => el("span", {}, el("span", { class: `key ${kind}` }), name)));
        const allMicros = sides.flatMap(s => s.side.distribution.map(b => b.micros)).filter(v => v > 0);
        const charts = el("div", { class: "pair" });
        if (allMicros.length) {
          const yMin = 10 ** Math.floor(Math.log10(Math.min(...allMicros))), yMax = 10 ** Math.ceil(Math.log10(Math.max(...allMicros) * 1.0001));
          const nines = (n, total) => Math.min(5, -Math.log10(Math.max(1e-5, 1 - n / total)));
          const lines = sides.map(s => { const total = s.side.response.count; return { name: s.name, color: s.color,
            points: s.side.distribution.map(b => [nines(b.count, total), b.micros]).filter(p => p[0] <= 4.3) }; });
          charts.append(section("Latency by percentile", legend(), chart(lines, { name: "Latency by percentile", xMax: 4.3, yLog: true, yMin, yMax,
            yWord: y => `${ms(y)} ms`, xTicks: [[0, "0"], [.301, "50"], [1, "90 %"], [2, "99 %"], [3, "99.9 %"], [4, "99.99 %"]],
            xLabel: x => `${(100 * (1 - 10 ** -x)).toFixed(x > 2 ? 2 : 1)} %` })));
        }
        const end = Math.max(.001, ...sides.map(s => s.report.seconds));
        const xTicks = timeTicks(end), xLabel = duration;
        const rate = sides.map(s => ({ name: s.name, color: s.color, steps: true, points: s.side.timeline.flatMap(t => [[t.at, t.units / t.width], [t.at + t.width, t.units / t.width]]) }));
        const failed = sides.filter(s => sum(s.side.errors)).map(s => ({ name: `${s.name}, errors`, color: s.color, dash: "3 3", steps: true,
          points: s.side.timeline.flatMap(t => [[t.at, t.errors / t.width], [t.at + t.width, t.errors / t.width]]) }));
        const hasUnits = sides.some(s => s.side.timeline.length);
        const rateMax = Math.max(1, ...rate.flatMap(l => l.points.map(p => p[1])));
        if (hasUnits) charts.append(section("Units per second", legend(...(failed.length ? [["dashes", "errors"]] : [])),
          chart([...rate, ...failed], { name: "Units per second", xMax: end, xTicks, xLabel, yMax: rateMax, yWord: y => count(Math.round(y)) })));
        const over = sides.flatMap(s => [{ name: `${s.name} p99`, color: s.color, points: s.side.timeline.map(t => [t.at + t.width / 2, t.p99]).filter(p => p[1]) },
          { name: `${s.name} p50`, color: s.color, opacity: .55, dash: "5 4", points: s.side.timeline.map(t => [t.at + t.width / 2, t.p50]).filter(p => p[1]) }]);
        const overAll = over.flatMap(l => l.points.map(p => p[1]));
        if (overAll.length) charts.append(section("Latency over time", legend(["line", "p99"], ["dashes", "p50"]),
          chart(over, { name: "Latency over time", xMax: end, xTicks, xLabel, yLog: true, yMin: 10 ** Math.floor(Math.log10(Math.min(...overAll))), yMax: 10 ** Math.ceil(Math.log10(Math.max(...overAll) * 1.0001)), yWord: y => `${ms(y)} ms` })));
        const states = [...new Set(sides.flatMap(s => Object.keys(s.side.errors)))].sort();
        charts.append(section("Errors", states.length ? table(["SQLSTATE", ...sides.map(s => s.name)], states.map(state => [state, ...sides.map(s => count(s.side.errors[state] ?? 0))]))
          : el("p", { class: "soft" }, "None.")));
        main.append(charts);

        // Differences.
        for (const report of reports) {
          const c = report.comparison;
          if (!c) continue;
          const names = report.sides.map(s => s.name).join(" and ");
          const list = c.shapes.filter(s => s.mismatches + s.unproven + s.sideDependent + s.noise).map(s => [
            el("td", { class: "code" }, s.text, s.samples.length ? el("details", s.mismatches ? { open: "" } : {}, el("summary", {}, counted(s.samples.length, "sample")), ...s.samples.map(w => el("div", { class: "sample" }, w))) : null),
            el("td", s.mismatches ? { class: "bad" } : {}, count(s.mismatches)), count(s.unproven), count(s.sideDependent), count(s.noise)]);
          main.append(section(`Answers of ${names}`, el("p", { class: "sub" },
            `${counted(c.units, "unit")} compared, ${count(c.equal)} equal. Different: the first side gives the same twice, the second something else. Unproven: could not be run twice. Noise: differs on one side alone.`),
            list.length ? table(["statement", "different", "unproven", "of one server", "noise"], list) : el("p", { class: "soft" }, "All equal.")));
        }

        // Shapes.
        const shapes = new Map();
        sides.forEach((s, i) => s.side.shapes.forEach(shape => { if (!shapes.has(shape.text)) shapes.set(shape.text, []); shapes.get(shape.text)[i] = shape; }));
        const weight = list => Math.max(...list.map(s => s ? s.latency.count * s.latency.mean : 0));
        const ordered = [...shapes.entries()].sort((a, b) => weight(b[1]) - weight(a[1])).slice(0, 100);
        const several = (list, f, attributes = {}) => el("td", attributes, ...sides.flatMap((s, i) => { const v = list[i] ? f(list[i]) : "–"; return sides.length > 1 ? [el("div", { style: `color:${s.color}` }, v || "\u00a0")] : [v]; }));
        const title = `Statements, those that took most time first${shapes.size > ordered.length ? ` (${ordered.length} of ${count(shapes.size)})` : ""}`;
        main.append(section(title, !ordered.length ? el("p", { class: "soft" }, "None.") : table(["statement", "count", "mean", "p50", "p99", "max", "errors", ...(hasChecked ? ["other than captured"] : [])],
          ordered.map(([words, list]) => {
            const samples = [...new Set(list.flatMap(s => s ? s.samples : []))];
            const errors = s => Object.entries(s.errors).map(([k, v]) => `${k}\u00a0×\u00a0${count(v)}`).join(", ");
            return [el("td", { class: "code" }, words, samples.length ? el("details", {}, el("summary", {}, counted(samples.length, "sample")), ...samples.map(w => el("div", { class: "sample" }, w))) : null),
              several(list, s => count(s.latency.count)), several(list, s => ms(s.latency.mean)), several(list, s => ms(s.latency.p50)), several(list, s => ms(s.latency.p99)),
              several(list, s => ms(s.latency.max)), several(list, errors, list.some(s => s && errors(s)) ? { class: "bad errors" } : {}), ...(hasChecked ? [several(list, s => s.differences ? count(s.differences) : "")] : [])];
          }))));
        document.title = reports.map(r => r.title).join(" – ");

        """#
}
