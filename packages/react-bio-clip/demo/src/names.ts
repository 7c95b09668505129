/** Names of taxa, and numbers that read the same in every language. */

import type {BundleInfo} from 'react-bio-clip';

/** Number of the taxa that a bundle knows, in parts or not. */
export const taxaOf = ({text, taxa}: BundleInfo): number => text.parts?.taxa ?? taxa.length;

/** Bytes of the parts of its table. */
export const partBytes = ({text, files}: BundleInfo): number =>
  (text.parts?.files ?? []).reduce((sum, part) => sum + (part ? files[part.file].bytes : 0), 0);

/** The part of a taxon that an answer has: `path` runs from kingdom to the taxon, null where a rank has no name. */
export interface Named {
  rank: string;
  path: readonly (string | null)[];
  commonNames?: Readonly<Record<string, string>>;
}

/** "Morus alba" for a species, else the name alone. */
export function scientific({rank, path}: Named): string {
  const names = path.filter((name) => name !== null);
  return rank === 'species' ? names.slice(-2).join(' ') : (names.at(-1) ?? '');
}

export const isItalic = (rank: string) => rank === 'genus' || rank === 'species';

export const common = ({commonNames}: Named, language: string): string | null => commonNames?.[language] ?? null;

/** "96 %"; uncertain answers never show "100 %", possible ones never "0 %". */
export function percent(probability: number): string {
  const rounded = Math.round(100 * probability);
  if (rounded === 100 && probability < 1) return '> 99 %';
  return rounded === 0 && probability > 0 ? '< 1 %' : `${rounded} %`;
}

/** 1 MB = 1,000,000 bytes, as in the report. */
export function megabytes(bytes: number): string {
  return bytes < 1e5
    ? `${Math.max(1, Math.round(bytes / 1e3))} kB`
    : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}
