// Snakemake's report shows a page as a data: URL in a frame. Chromium shows nothing if the URL is longer than 2 MiB, so
// each frame gets its page as a Blob. A link with data-page opens that page of the report.
(function () {
  function bytes(url) {
    return Uint8Array.from(atob(url.slice(url.indexOf(",") + 1)), function (c) { return c.charCodeAt(0); });
  }
  new MutationObserver(function () {
    document.querySelectorAll('iframe[src^="data:text/html"]').forEach(function (frame) {
      var page = new Blob([bytes(frame.getAttribute("src"))], { type: "text/html;charset=utf-8" });
      frame.src = URL.createObjectURL(page);
    });
  }).observe(document.documentElement, { childList: true, subtree: true });
  document.addEventListener("click", function (event) {
    var link = event.target.closest("a[data-page]");
    if (!link) return;
    event.preventDefault();
    var path = link.dataset.page;
    app.setView({ content: "html", contentPath: results[path].data_uri, resultPath: path });
  });
})();
