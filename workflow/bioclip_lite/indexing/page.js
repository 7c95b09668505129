// Sort the table by a column when its heading is selected: numbers downwards first, then upwards; text by the alphabet.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const column = button.parentNode.cellIndex;
    const body = button.closest("table").tBodies[0];
    const down = button.dataset.order !== "down";
    for (const other of button.closest("tr").querySelectorAll("button")) delete other.dataset.order;
    button.dataset.order = down ? "down" : "up";

    const value = (row) => {
      const text = row.cells[column].textContent;
      const number = Number(text.replaceAll(",", ""));
      return Number.isNaN(number) ? text : number;
    };
    const compare = ([a], [b]) =>
      typeof a === "number" && typeof b === "number" ? b - a : String(a).localeCompare(b);
    const rows = [...body.rows].map((row) => [value(row), row]);
    rows.sort((one, other) => compare(one, other) * (down ? 1 : -1));
    body.append(...rows.map(([, row]) => row));
  });
}
