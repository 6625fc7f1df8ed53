(function () {
  var data = JSON.parse(document.getElementById("ledger-data").textContent);
  var form = document.getElementById("ledger-form"), body = document.getElementById("ledger-body");
  var count = document.getElementById("ledger-count"), more = document.getElementById("ledger-more");
  if (!form) return;
  var PAGE = 50, shown = PAGE;
  function fill(select, names, first) {
    if (first) select.add(new Option(first, ""));
    names.forEach(function (name, index) { select.add(new Option(name.replace(/_/g, " "), index)); });
  }
  fill(form.group, data.groups.map(function (g) { return g.name; }));
  fill(form.task, data.tasks, "all tasks");
  fill(form.outcome, data.outcomes, "all outcomes");
  data.methods.forEach(function (name, index) {
    form.mark.add(new Option(name + ": right", index + "1"));
    form.mark.add(new Option(name + ": wrong", index + "0"));
  });
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
  function draw() {
    var rows = (data.groups[+form.group.value] || { rows: [] }).rows.filter(matches);
    body.textContent = "";
    rows.slice(0, shown).forEach(function (row) {
      var tr = body.insertRow(), text = data.texts[row[0]];
      cell(tr, data.tasks[text[0]], "text");
      cell(tr, text[1], "wrap question");
      cell(tr, text[2], "wrap answer");
      cell(tr, { "1": "yes", "0": "no", "-": "—" }[row[3]], "text");
      cell(tr, data.outcomes[row[1]].replace(/_/g, " "), "text");
      row[2].split("").forEach(function (mark, index) {
        var td = cell(tr, "", "text mark" + mark), sign = document.createElement("span");
        var at = data.detailed.indexOf(index);
        sign.textContent = { "1": "✓", "0": "✗", "-": "—" }[mark];
        sign.setAttribute("role", "img");
        sign.setAttribute("aria-label", { "1": "right", "0": "wrong", "-": "not run" }[mark]);
        td.append(sign);
        if (at < 0) return;
        var margin = row[4 + 2 * at], answer = row[5 + 2 * at], small = document.createElement("small");
        var given = answer === null ? "" : data.answers[answer];
        small.textContent = [given, margin === null ? "" : "(" + margin.toFixed(2) + ")"].join(" ").trim();
        td.append(small);
      });
    });
    count.textContent = rows.length + " items, " + Math.min(shown, rows.length) + " shown";
    more.hidden = rows.length <= shown;
  }
  form.addEventListener("input", function () { shown = PAGE; draw(); });
  form.addEventListener("submit", function (event) { event.preventDefault(); });
  more.addEventListener("click", function () { shown += PAGE; draw(); });
  draw();
})();
