/** All taxa of the list at every rank, to choose one that the model did not name. */

import type {BundleInfo} from 'react-bio-clip';
import {scientificName} from 'react-bio-clip';

export interface ListedTaxon {
  rank: string;
  path: (string | null)[];
  name: string;
  commonNames: Record<string, string>;
}

/** Taxa in tree order, each above those below it. */
export function listedTaxa({ranks, taxa}: BundleInfo): ListedTaxon[] {
  const found = new Map<string, ListedTaxon>();
  for (const taxon of taxa) {
    taxon.ranks.forEach((own, r) => {
      if (!own) return;
      const path = taxon.ranks.slice(0, r + 1);
      const key = JSON.stringify(path);
      const known = found.get(key) ?? {rank: ranks[r], path, name: scientificName(path), commonNames: {}};
      if (taxon.rank === ranks[r]) known.commonNames = taxon.common_names;
      found.set(key, known);
    });
  }
  return [...found.values()];
}

/** Taxa whose scientific or common name holds the text; names that begin with it come first. */
export function search(taxa: readonly ListedTaxon[], text: string, language: string): ListedTaxon[] {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return [];
  const at = ({name, commonNames}: ListedTaxon) => {
    const places = [name, commonNames[language] ?? ''].map((one) => one.toLowerCase().indexOf(wanted));
    return Math.min(...places.map((place) => (place < 0 ? Infinity : place)));
  };
  const ranked = taxa.map((taxon) => ({taxon, place: at(taxon)})).filter(({place}) => place < Infinity);
  return ranked.sort((a, b) => Math.min(a.place, 1) - Math.min(b.place, 1)).map(({taxon}) => taxon);
}
