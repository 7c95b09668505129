/** An answer in words. */

import type {Answer} from 'react-bio-clip/native';

const PROBABLY = 0.5;

/** A line that names the answer, and what is to be said about it. */
export function summaryOf({answer, taxa, onList = 1}: Answer): {title: string; note: string | null} {
  if (onList < PROBABLY) return {title: 'Probably not on the list', note: nearest(taxa)};
  if (!answer) return {title: 'Not certain at any rank', note: nearest(taxa)};
  const {rank, name, commonNames, note} = answer;
  const common = commonNames.en;
  const title = common === undefined ? name : `${common} (${name})`;
  return {title: rank === 'species' ? title : `A ${rank}: ${title}`, note};
}

function nearest([first]: Answer['taxa']): string | null {
  return first ? `The nearest that it knows is ${first.name}, ${percentOf(first.probability)} %.` : null;
}

export interface Row {
  rank: string;
  name: string;
  percent: number;
  /** The answer is of this rank. */
  isAnswer: boolean;
}

/** The most probable node of each rank, from the top. */
export function rowsOf({answer, ranks: best}: Answer, ranks: string[]): Row[] {
  return ranks.flatMap((rank) => {
    const node = best[rank];
    if (!node) return [];
    return [{rank, name: node.name, percent: percentOf(node.probability), isAnswer: answer?.rank === rank}];
  });
}

const percentOf = (probability: number) => Math.round(100 * probability);
