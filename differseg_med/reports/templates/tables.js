// Sorting, searching and choosing in every table of the page. Without scripts the tables stand as they were written.
"use strict";
(() => {
  const value = (row, column) => row.cells[column].textContent.trim();

  // Numbers as numbers, also with a unit or an interval behind them; all others as words, numbers in them by size.
  const order = new Intl.Collator(undefined, { numeric: true }).compare;
  const compare = (a, b) => {
    const x = parseFloat(a), y = parseFloat(b);
    return Number.isNaN(x) || Number.isNaN(y) ? order(a, b) : x - y;
  };

  const sort = (table, header, column) => {
    const down = header.getAttribute("aria-sort") === "ascending";
    table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0], sign = down ? -1 : 1;
    const keyed = [...body.rows].map((row) => [value(row, column), row]);
    // What is blank comes last, whichever way the others are sorted.
    keyed.sort(([a], [b]) => (a === "") - (b === "") || sign * compare(a, b));
    body.append(...keyed.map(([, row]) => row));
  };

  document.querySelectorAll(".data").forEach((data) => {
    const table = data.querySelector("table"), tools = data.querySelector(".tools");
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = header.textContent;
      button.onclick = () => sort(table, header, column);
      header.replaceChildren(button);
    });
    if (!tools) return;
    tools.hidden = false;
    const search = tools.querySelector(".search"), choose = tools.querySelector(".choose");
    const filter = () => {
      const words = search ? search.value.toLowerCase().split(/\s+/).filter(Boolean) : [];
      let shown = 0;
      for (const row of table.tBodies[0].rows) {
        const text = row.textContent.toLowerCase();
        const fits = words.every((word) => text.includes(word)) &&
          (!choose || !choose.value || value(row, Number(choose.dataset.column)) === choose.value);
        row.hidden = !fits;
        shown += fits;
      }
      tools.querySelector(".count").textContent = `${shown} of ${table.tBodies[0].rows.length} rows`;
    };
    if (search) search.oninput = filter;
    if (choose) choose.onchange = filter;
    filter();
  });
})();
