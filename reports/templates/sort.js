document.querySelectorAll("table.sortable").forEach(function (table) {
  var heads = table.querySelectorAll("thead th");
  heads.forEach(function (head, column) {
    var button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", function () {
      var rising = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      var body = table.tBodies[0];
      function key(row) { return row.cells[column].dataset.value || ""; }
      Array.from(body.rows).sort(function (one, two) {
        var a = key(one), b = key(two), x = parseFloat(a), y = parseFloat(b);
        if (a === "" || b === "") return (a === "") - (b === "");
        var order = isNaN(x) || isNaN(y) ? a.localeCompare(b) : x - y;
        return rising ? order : -order;
      }).forEach(function (row) { row.classList.remove("first"); body.appendChild(row); });
    });
  });
});
