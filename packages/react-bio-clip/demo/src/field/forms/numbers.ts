/** Numbers as Python writes them, so that exports of the page and of `predict` are the same text. */

/** The shortest text of a float that reads back as itself: Python's repr. */
export function float(value: number): string {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e16)) return exponent(value.toExponential());
  return Number.isInteger(value) ? value.toFixed(1) : String(value);
}

/** Six significant digits: Python's format '.6g'. */
export function general(value: number): string {
  const text = value.toExponential(5);
  const power = Number(text.split('e')[1]);
  if (value === 0 || (power >= -4 && power < 6)) return String(Number(value.toPrecision(6)));
  return exponent(text.replace(/\.?0+e/, 'e'));
}

/** At least two digits in the exponent. */
const exponent = (text: string) => text.replace(/e([+-])(\d)$/, 'e$10$2');
