/** A Darwin Core archive of occurrences with their photographs, as predicting/darwin_core.py writes it. */

import {strToU8, zipSync} from 'fflate';
import {v5 as uuid5} from 'uuid';

import {float, general} from './numbers.js';
import {named, PROBABLY, RANKS, taken, type Origin, type Record} from './records.js';

const NAMESPACE_OID = '6ba7b812-9dad-11d1-80b4-00c04fd430c8'; // RFC 9562
const DWC = 'http://rs.tdwg.org/dwc/terms/';
const DC = 'http://purl.org/dc/terms/';
const OCCURRENCE = [
  ...['occurrenceID', 'basisOfRecord', 'eventDate', 'decimalLatitude', 'decimalLongitude', 'geodeticDatum'],
  ...['scientificName', 'taxonRank', ...RANKS.slice(0, -1), 'specificEpithet', 'vernacularName'],
  ...['identifiedBy', 'dateIdentified', 'identificationRemarks', 'identificationVerificationStatus'],
];
const MULTIMEDIA = ['type', 'format', 'identifier', 'created'];
/** The time of all members of archives, so that equal answers are equal bytes. */
export const UNDATED = {mtime: new Date(1980, 0, 1)};

type Value = string | null | undefined;

/** The texts of the archive by name. */
export function darwinCore(records: readonly Record[]): {[name: string]: string} {
  return {
    'meta.xml': meta(),
    'eml.xml': eml(records),
    'occurrence.txt': table(OCCURRENCE, records.map(occurrence)),
    'multimedia.txt': table(['occurrenceID', ...MULTIMEDIA], records.map(multimedia)),
  };
}

/** One compressed file of texts. */
export function zipped(texts: {[name: string]: string}): Uint8Array<ArrayBuffer> {
  const files = Object.fromEntries(Object.entries(texts).map(([name, text]) => [name, strToU8(text)]));
  return zipSync(files, UNDATED) as Uint8Array<ArrayBuffer>;
}

function table(header: readonly string[], rows: readonly Value[][]): string {
  // The form has no quotes: what would end a field or a line is a blank.
  const plain = (value: Value) => (value ?? '').trim().split(/\s+/).join(' ');
  return [header, ...rows.map((row) => row.map(plain))].map((row) => `${row.join('\t')}\n`).join('');
}

/** The same for one photograph in every export: made of its content and its name. */
const identifier = ({sha256, file}: Record) => `urn:uuid:${uuid5(`${sha256} ${file}`, NAMESPACE_OID)}`;

function occurrence(record: Record): Value[] {
  const {latitude, longitude, origin, answer, confirmed} = record;
  const taxon = confirmed ? confirmed.taxon : answer;
  return [
    ...[identifier(record), 'MachineObservation', taken(record)],
    ...[latitude === null ? null : float(latitude), longitude === null ? null : float(longitude)],
    latitude === null ? null : 'EPSG:4326',
    ...(taxon ? [taxon.name, taxon.rank, ...taxon.path, taxon.commonName] : Array(2 + RANKS.length + 1).fill(null)),
    ...(confirmed ? [confirmed.by, confirmed.at] : [named(origin), origin.began]),
    ...[remarks(record), confirmed ? 'verified' : 'unverified'],
  ];
}

const multimedia = (record: Record): Value[] => [
  ...[identifier(record), 'StillImage', record.mediaType, record.file, taken(record)],
];

/** Say how certain the answer is, by which rule it was given, and what a person and the species list say of it. */
export function remarks({answer, onList, origin, confirmed}: Record): string {
  const other = onList === null || onList >= PROBABLY ? [] : [`on the list with a probability of ${onList.toFixed(4)}`];
  const person = confirmed && (confirmed.taxon ? 'named by a person' : 'a person found nothing of the list');
  const before = person ? `${person}; the model, ${named(origin)}: ` : '';
  if (!answer) {
    const unknown = other.length ? 'none of the list' : 'no taxon is certain enough';
    return `${before}unknown: ${[unknown, ...other].join('; ')}. ${rule(origin)}`;
  }
  const {name, rank, score, threshold, zeroShot, note} = answer;
  const said = `classified by a machine at the rank of ${rank} with a probability of ${score.toFixed(4)}`;
  const asked = threshold === null ? '' : `, threshold ${general(threshold)}`;
  const more = [...(zeroShot ? ['no photograph of it was learned from'] : []), ...other, ...(note ? [note] : [])];
  return `${before}${[(person ? `${name}, ` : '') + said + asked, ...more].join('; ')}`;
}

/** The thresholds of the ranks in words. */
export function rule({thresholds}: Pick<Origin, 'thresholds'>): string {
  const known = RANKS.filter((rank) => thresholds?.[rank] != null);
  if (!known.length) return 'Every photograph has an answer, however uncertain.';
  return `Thresholds: ${known.map((rank) => `${rank} ${general(thresholds![rank]!)}`).join(', ')}.`;
}

/** The models of the records, the latest last. */
export function originsOf(records: readonly Record[]): Origin[] {
  const sorted = [...records].sort((a, b) => Date.parse(a.origin.began) - Date.parse(b.origin.began));
  return [...new Map(sorted.map(({origin}) => [origin.sha256, origin])).values()];
}

const fieldsOf = (terms: string, names: readonly string[], first: number) =>
  names.map((name, i) => `    <field index="${first + i}" term="${terms}${name}"/>`).join('\n');

function fileOf(kind: string, row: string, name: string, key: string, fields: string): string {
  return `  <${kind} encoding="UTF-8" rowType="${row}" fieldsTerminatedBy="\\t" linesTerminatedBy="\\n" \
fieldsEnclosedBy="" ignoreHeaderLines="1">
    <files><location>${name}</location></files>
    <${key} index="0"/>
${fields}
  </${kind}>`;
}

function meta(): string {
  const multimediaType = 'http://rs.gbif.org/terms/1.0/Multimedia';
  return `<?xml version="1.0" encoding="UTF-8"?>
<archive xmlns="http://rs.tdwg.org/dwc/text/" metadata="eml.xml">
${fileOf('core', `${DWC}Occurrence`, 'occurrence.txt', 'id', fieldsOf(DWC, OCCURRENCE, 0))}
${fileOf('extension', multimediaType, 'multimedia.txt', 'coreid', fieldsOf(DC, MULTIMEDIA, 1))}
</archive>
`;
}

const escaped = (text: string) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');

function eml(records: readonly Record[]): string {
  const origins = originsOf(records);
  const {sha256, began} = origins.at(-1)!;
  const models = escaped([...new Set(origins.map(({name}) => name))].join('; '));
  const machines = escaped(origins.map(named).join('; '));
  const verified = records.filter(({confirmed}) => confirmed).length;
  const told = verified
    ? `Persons have verified the identifications of ${verified} of ${records.length}.`
    : 'Nobody has verified the identifications.';
  return `<?xml version="1.0" encoding="UTF-8"?>
<eml:eml xmlns:eml="https://eml.ecoinformatics.org/eml-2.2.0" packageId="${uuid5(`${sha256} ${began}`, NAMESPACE_OID)}" system="bioclip-lite">
  <dataset>
    <title>What ${models} says of photographs</title>
    <creator><organizationName>${models}</organizationName></creator>
    <pubDate>${began.slice(0, 10)}</pubDate>
    <abstract><para>Each record is one photograph, identified by a machine: ${machines}. ${origins.map(rule).join(' ')} ${told}</para></abstract>
    <contact><organizationName>${models}</organizationName></contact>
  </dataset>
</eml:eml>
`;
}
