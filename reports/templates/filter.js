document.querySelectorAll("table.filterable").forEach(function (table) {
  var label = document.createElement("label"), input = document.createElement("input");
  var count = document.createElement("span");
  var rows = Array.from(table.tBodies[0].rows), scroll = table.closest(".scroll");
  label.className = "rowfilter";
  label.append("rows with all of these words ", input, " ", count);
  input.type = "search";
  count.setAttribute("role", "status");
  input.addEventListener("input", function () {
    var words = input.value.toLowerCase().split(/\s+/).filter(Boolean), shown = 0;
    rows.forEach(function (row) {
      var cells = Array.from(row.cells, function (cell) { return cell.dataset.value || ""; });
      var text = cells.join(" ").toLowerCase();
      row.hidden = !words.every(function (word) { return text.indexOf(word) >= 0; });
      if (!row.hidden) shown += 1;
    });
    count.textContent = words.length ? shown + " of " + rows.length : "";
  });
  scroll.parentNode.insertBefore(label, scroll);
});
