(function () {
  var form = document.getElementById("ledger-form"), body = document.getElementById("ledger-body");
  var count = document.getElementById("ledger-count"), more = document.getElementById("ledger-more");
  if (!form) return;
  var PAGE = 50, shown = PAGE, data;
  function unpacked(text) {
    var bytes = Uint8Array.from(atob(text), function (c) { return c.charCodeAt(0); });
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  }
  function fill(select, names, first) {
    if (first) select.add(new Option(first, ""));
    names.forEach(function (name, index) { select.add(new Option(name, index)); });
  }
  function cell(row, text, kind) {
    var td = row.insertCell();
    td.textContent = text;
    if (kind) td.className = kind;
    return td;
  }
  function matches(row) {
    var text = data.texts[row[0]], find = form.find.value.toLowerCase(), mark = form.mark.value;
    if (form.task.value !== "" && text[0] !== +form.task.value) return false;
    if (form.taught.value !== "" && row[3] !== form.taught.value) return false;
    if (form.outcome.value !== "" && row[1] !== +form.outcome.value) return false;
    if (mark !== "" && row[2][+mark.slice(0, -1)] !== mark.slice(-1)) return false;
    return !find || (text[1] + " " + text[2]).toLowerCase().indexOf(find) >= 0;
  }
  function sign(mark, method) {
    var span = document.createElement("span");
    span.textContent = { "1": "✓", "0": "✗", "-": "—" }[mark];
    span.className = "mark" + mark;
    span.dataset.method = method;
    span.setAttribute("role", "img");
    span.setAttribute("aria-label", { "1": "right", "0": "wrong", "-": "not run" }[mark]);
    return span;
  }
  function small(parent, text) {
    parent.append(Object.assign(document.createElement("small"), { textContent: text }));
  }
  function draw() {
    var rows = (data.groups[+form.group.value] || { rows: [] }).rows.filter(matches);
    body.textContent = "";
    rows.slice(0, shown).forEach(function (row) {
      var tr = body.insertRow(), text = data.texts[row[0]];
      var about = [data.tasks[text[0]], data.outcomes[row[1]].replace(/_/g, " ")];
      if (row[3] !== "-") about.push((row[3] === "1" ? "" : "not ") + "in the training text");
      small(cell(tr, text[1], "wrap question"), about.join(" · "));
      cell(tr, text[2], "wrap answer");
      data.detailed.forEach(function (method, at) {
        var td = cell(tr, "", "text given"), margin = row[4 + 2 * at], answer = row[5 + 2 * at];
        td.append(sign(row[2][method], data.methods[method]));
        small(td, [answer === null ? "" : data.answers[answer], margin === null ? "" : "(" + margin.toFixed(2) + ")"]
          .join(" ").trim());
      });
      if (data.methods.length > data.detailed.length) {
        var others = cell(tr, "", "text given others");
        data.methods.forEach(function (name, index) {
          if (data.detailed.indexOf(index) >= 0) return;
          var other = others.appendChild(document.createElement("span"));
          other.className = "other";
          other.append(sign(row[2][index], name), " " + name);
        });
      }
    });
    count.textContent = rows.length + " items, " + Math.min(shown, rows.length) + " shown";
    more.hidden = rows.length <= shown;
  }
  unpacked(document.getElementById("ledger-data").textContent).then(function (found) {
    data = found;
    fill(form.group, data.groups.map(function (g) { return g.name; }));
    fill(form.task, data.tasks, "all tasks");
    fill(form.outcome, data.outcomes.map(function (name) { return name.replace(/_/g, " "); }), "all outcomes");
    data.methods.forEach(function (name, index) {
      form.mark.add(new Option(name + ": right", index + "1"));
      form.mark.add(new Option(name + ": wrong", index + "0"));
    });
    form.addEventListener("input", function () { shown = PAGE; draw(); });
    form.addEventListener("submit", function (event) { event.preventDefault(); });
    more.addEventListener("click", function () { shown += PAGE; draw(); });
    draw();
  });
})();
