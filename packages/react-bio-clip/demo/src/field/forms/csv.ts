/** CSV of `predict --confirm --exif` (predicting/csv_table.py), with the number of the observation. */

import {float, general} from './numbers.js';
import {PROBABLY, RANKS, taken, type Record} from './records.js';

const COLUMNS = [
  ...['file_name', ...RANKS.slice(0, -1), 'species_epithet', 'species', 'common_name', 'score', 'zero_shot', 'note'],
  ...['rank', 'threshold', 'on_list', 'off_list', 'model', 'model_sha256', 'error'],
  ...['time', 'latitude', 'longitude', 'best', 'best_scores', 'confirmed', 'observation'],
];

type Row = {[column: string]: string | null | undefined};

export const toCsv = (records: readonly Record[]) => tableOf(COLUMNS, records.map(rowOf));

function rowOf(record: Record): Row {
  const {answer, origin, onList, latitude, longitude, confirmed} = record;
  return {
    file_name: record.file,
    ...(answer && answerRow(answer)),
    on_list: onList === null ? null : general(onList),
    off_list: onList !== null && onList < PROBABLY ? 'yes' : null,
    model: origin.name,
    model_sha256: origin.sha256,
    time: taken(record),
    latitude: latitude === null ? null : float(latitude),
    longitude: longitude === null ? null : float(longitude),
    best: record.best.map((name) => name ?? '').join(' > '),
    best_scores: record.bestScores.map(general).join(' '),
    confirmed: confirmed?.label,
    observation: String(record.observation),
  };
}

function answerRow({
  path,
  name,
  commonName,
  score,
  threshold,
  zeroShot,
  note,
  rank,
}: NonNullable<Record['answer']>): Row {
  const epithet = path[RANKS.length - 1];
  return {
    ...Object.fromEntries(RANKS.slice(0, -1).map((column, r) => [column, path[r]])),
    ...(epithet && {species_epithet: epithet, species: name}),
    common_name: commonName,
    score: general(score),
    zero_shot: zeroShot ? 'yes' : null,
    note,
    rank,
    threshold: threshold === null ? null : float(threshold),
  };
}

/** Rows below a header, as Python's csv writes them with `\n` at the end of each. */
export function tableOf(columns: readonly string[], rows: readonly Row[]): string {
  const quoted = (text: string) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const lines = rows.map((row) => columns.map((column) => quoted(row[column] ?? '')).join(','));
  return [columns.join(','), ...lines, ''].join('\n');
}
