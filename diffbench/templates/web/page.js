(function () {
  "use strict";
  var root = document.documentElement;
  var FOR_METHODS = ["method", "access"];

  function rowsOf(table) {
    return Array.prototype.slice.call(table.tBodies[0].rows);
  }

  // Sorting: pinned rows stay on top, what has no value comes last in both directions, ties keep the page's order.

  function keyOf(row, column, words) {
    var cell = row.cells[column];
    if (!cell) return null;
    var value = cell.getAttribute("data-value");
    if (value !== null && value !== "" && !isNaN(Number(value))) return Number(value);
    var text = cell.textContent.trim();
    return words && text !== "" ? text : null;
  }

  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), "en", { numeric: true });
  }

  function sortBy(table, column, direction) {
    var heads = table.tHead.rows[0].cells;
    var words = heads[column].classList.contains("text") || column === 0;
    var sign = direction === "ascending" ? 1 : -1;
    var lines = rowsOf(table).map(function (row) {
      return { row: row, key: keyOf(row, column, words), at: Number(row.getAttribute("data-at")),
               pinned: row.hasAttribute("data-pinned") };
    });
    lines.sort(function (a, b) {
      if (a.pinned || b.pinned) return a.pinned && b.pinned ? a.at - b.at : a.pinned ? -1 : 1;
      if (a.key === null || b.key === null) return a.key === b.key ? a.at - b.at : a.key === null ? 1 : -1;
      return sign * compare(a.key, b.key) || a.at - b.at;
    });
    var body = table.tBodies[0];
    lines.forEach(function (line) { body.appendChild(line.row); });
    Array.prototype.forEach.call(heads, function (head, at) {
      if (at === column) head.setAttribute("aria-sort", direction);
      else head.removeAttribute("aria-sort");
    });
  }

  function makeSortable(table) {
    rowsOf(table).forEach(function (row, at) { row.setAttribute("data-at", at); });
    Array.prototype.forEach.call(table.tHead.rows[0].cells, function (head, column) {
      var button = document.createElement("button");
      button.type = "button";
      while (head.firstChild) button.appendChild(head.firstChild);
      if (!button.textContent.trim()) button.setAttribute("aria-label", "sort");
      head.appendChild(button);
      var first = head.getAttribute("data-first") ||
        (head.classList.contains("text") || column === 0 ? "ascending" : "descending");
      button.addEventListener("click", function () {
        var now = head.getAttribute("aria-sort");
        sortBy(table, column, now === null ? first : now === "ascending" ? "descending" : "ascending");
      });
    });
  }

  // Filters: each asks the rows that carry its data attribute; several values stand in lines of their own.

  function matches(row, name, wanted) {
    var value = row.getAttribute("data-" + name);
    return value === null || value.split("\n").indexOf(wanted) >= 0;
  }

  function applyFilters(form, tables) {
    var wanted = {};
    Array.prototype.forEach.call(form.querySelectorAll("select[data-filter]"), function (select) {
      if (select.value) wanted[select.getAttribute("data-filter")] = select.value;
    });
    var search = form.querySelector("input[data-search]");
    var words = search ? search.value.trim().toLowerCase() : "";
    var shown = 0, all = 0;
    tables.forEach(function (table) {
      rowsOf(table).forEach(function (row) {
        var pinned = row.hasAttribute("data-pinned");
        var stays = Object.keys(wanted).every(function (name) {
          return (pinned && FOR_METHODS.indexOf(name) >= 0) || matches(row, name, wanted[name]);
        });
        if (stays && words && !pinned) {
          var text = row.getAttribute("data-search") || row.textContent;
          stays = text.toLowerCase().indexOf(words) >= 0;
        }
        row.hidden = !stays;
        all += 1;
        shown += stays ? 1 : 0;
      });
    });
    var count = form.querySelector("[data-count]");
    if (count) count.textContent = shown + " of " + all + " rows shown";
    if (words) wanted.q = words;
    return wanted;
  }

  function remember(wanted) {
    var names = Object.keys(wanted);
    var ours = location.hash.indexOf("=") >= 0;
    if (!names.length && !ours) return;
    var text = names.map(function (name) {
      return encodeURIComponent(name) + "=" + encodeURIComponent(wanted[name]);
    }).join("&");
    history.replaceState(null, "", text ? "#" + text : location.pathname + location.search);
  }

  function recall(form) {
    if (location.hash.indexOf("=") < 0) return;
    location.hash.slice(1).split("&").forEach(function (part) {
      var at = part.indexOf("=");
      if (at < 0) return;
      var name, value;
      try {
        name = decodeURIComponent(part.slice(0, at));
        value = decodeURIComponent(part.slice(at + 1));
      } catch (error) {
        return;
      }
      Array.prototype.forEach.call(form.elements, function (control) {
        if (control.getAttribute("data-filter") !== name && !(name === "q" && control.hasAttribute("data-search"))) return;
        control.value = value;
        if (control.tagName === "SELECT" && control.selectedIndex < 0) control.value = "";
      });
    });
  }

  function makeFilters(form) {
    var tables = Array.prototype.slice.call(document.querySelectorAll("table[data-filtered]"));
    function update() { remember(applyFilters(form, tables)); }
    form.addEventListener("submit", function (event) { event.preventDefault(); });
    form.addEventListener("input", update);
    form.addEventListener("change", update);
    form.addEventListener("reset", function () { setTimeout(update, 0); });
    window.addEventListener("hashchange", function () { recall(form); applyFilters(form, tables); });
    recall(form);
    applyFilters(form, tables);
  }

  // A link into something folded opens it.

  function unfold() {
    var id = location.hash.slice(1);
    try {
      id = decodeURIComponent(id);
    } catch (error) {
      return;
    }
    var target = id ? document.getElementById(id) : null;
    if (!target) return;
    for (var part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
    target.scrollIntoView();
  }

  root.classList.add("scripts");
  Array.prototype.forEach.call(document.querySelectorAll("table[data-sortable]"), makeSortable);
  Array.prototype.forEach.call(document.querySelectorAll("form[data-filters]"), makeFilters);
  window.addEventListener("hashchange", unfold);
  unfold();
})();
