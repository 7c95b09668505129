/** A Camtrap DP 1.0.2 data package, as predicting/camtrap.py writes it: deployments are folders of photographs. */

import {tableOf} from './csv.js';
import {originsOf, remarks, rule} from './darwin-core.js';
import {float} from './numbers.js';
import {named, RANKS, type Record, type Taxon} from './records.js';

const SCHEMAS = 'https://raw.githubusercontent.com/tdwg/camtrap-dp/1.0.2';
/** A path of a file, as the table schema of media allows it. */
const PATH = /^(?=[^./~])((?!\.{2}).)*$/;
/** Degrees, about 100 m: photographs of one deployment are not farther apart. */
const AGREE = 0.001;
/** The deployment of photographs that were added without a folder. */
const NO_FOLDER = 'photographs';

// All columns of the standard, in its order: a table that lacks one does not validate.
const DEPLOYMENT = [
  ...['deploymentID', 'locationID', 'locationName', 'latitude', 'longitude', 'coordinateUncertainty'],
  ...['deploymentStart', 'deploymentEnd', 'setupBy', 'cameraID', 'cameraModel', 'cameraDelay', 'cameraHeight'],
  ...['cameraDepth', 'cameraTilt', 'cameraHeading', 'detectionDistance', 'timestampIssues', 'baitUse', 'featureType'],
  ...['habitat', 'deploymentGroups', 'deploymentTags', 'deploymentComments'],
];
const MEDIUM = [
  ...['mediaID', 'deploymentID', 'captureMethod', 'timestamp', 'filePath', 'filePublic', 'fileName'],
  ...['fileMediatype', 'exifData', 'favorite', 'mediaComments'],
];
const OBSERVATION = [
  ...['observationID', 'deploymentID', 'mediaID', 'eventID', 'eventStart', 'eventEnd', 'observationLevel'],
  ...['observationType', 'cameraSetupType', 'scientificName', 'count', 'lifeStage', 'sex', 'behavior'],
  ...['individualID', 'individualPositionRadius', 'individualPositionAngle', 'individualSpeed'],
  ...['bboxX', 'bboxY', 'bboxWidth', 'bboxHeight', 'classificationMethod', 'classifiedBy'],
  ...['classificationTimestamp', 'classificationProbability', 'observationTags', 'observationComments'],
];
/** The least specific values; those who ran the cameras know better. */
const PROJECT = {
  title: 'Photographs named by bioclip-lite',
  samplingDesign: 'opportunistic',
  captureMethod: ['activityDetection'],
  individualAnimals: false,
  observationLevel: ['media'],
};

export interface Place {
  latitude: string;
  longitude: string;
}

/** A folder of photographs; `place` is theirs, where they agree on one; else they have `none` or `several`. */
export interface Deployment {
  id: string;
  place: Place | 'none' | 'several';
}

export const deploymentOf = ({file}: Pick<Record, 'file'>) =>
  file.slice(0, Math.max(0, file.lastIndexOf('/'))) || NO_FOLDER;

/** Photographs that a package can hold: it needs the time and the kind of file of each, and allows few names. */
export const fitting = (records: readonly Record[]) =>
  records.filter(({time, file, mediaType}) => time !== null && mediaType !== null && PATH.test(file));

/** The folders of the photographs, by name. */
export function deployments(records: readonly Record[]): Deployment[] {
  const ids = [...new Set(records.map(deploymentOf))].sort();
  return ids.map((id) => ({id, place: placeOf(records.filter((record) => deploymentOf(record) === id))}));
}

function placeOf(records: readonly Record[]): Deployment['place'] {
  const placed = records.filter(({latitude}) => latitude !== null);
  if (!placed.length) return 'none';
  const [latitude, longitude] = [
    placed.map((record) => record.latitude!),
    placed.map((record) => record.longitude!),
  ].map((values) => ({least: Math.min(...values), most: Math.max(...values)}));
  if ([latitude, longitude].some(({least, most}) => most - least > AGREE)) return 'several';
  const middle = ({least, most}: {least: number; most: number}) => float(Number(((least + most) / 2).toFixed(6)));
  return {latitude: middle(latitude), longitude: middle(longitude)};
}

/**
 * The texts of a package by name.
 *
 * @param records fitting ones, at least one
 * @param offset of the cameras' clocks from UTC, where EXIF does not state it
 * @param places of the deployments, by name
 */
export function camtrapDp(
  records: readonly Record[],
  offset: string,
  places: {[deployment: string]: Place},
): {[name: string]: string} {
  const moment = (record: Record) => `${record.time}${record.offset ?? offset}`;
  const rows = deployments(records).map(({id}) => {
    const moments = records
      .filter((record) => deploymentOf(record) === id)
      .map(moment)
      .sort();
    return {deploymentID: id, ...places[id], deploymentStart: moments[0], deploymentEnd: moments.at(-1)!};
  });
  const media = records.map((record) => ({
    mediaID: record.file,
    deploymentID: deploymentOf(record),
    timestamp: moment(record),
    filePath: record.file,
    filePublic: 'false',
    fileName: record.file.slice(record.file.lastIndexOf('/') + 1),
    fileMediatype: record.mediaType,
  }));
  return {
    'datapackage.json': `${JSON.stringify(description(rows, records), null, 1)}\n`,
    'deployments.csv': tableOf(DEPLOYMENT, rows),
    'media.csv': tableOf(MEDIUM, media),
    'observations.csv': tableOf(
      OBSERVATION,
      records.map((record) => observation(record, moment(record))),
    ),
  };
}

function observation(record: Record, time: string) {
  const {answer, confirmed, origin} = record;
  const taxon = confirmed ? confirmed.taxon : answer;
  return {
    observationID: `${record.file}#1`,
    deploymentID: deploymentOf(record),
    mediaID: record.file,
    eventStart: time,
    eventEnd: time,
    observationLevel: 'media',
    observationType: typeOf(taxon),
    scientificName: taxon?.name,
    classificationMethod: confirmed ? 'human' : 'machine',
    classifiedBy: confirmed ? confirmed.by : named(origin),
    classificationTimestamp: confirmed ? confirmed.at : origin.began,
    classificationProbability: answer && !confirmed ? answer.score.toFixed(6) : null,
    observationComments: remarks(record),
  };
}

/** The standard has no type for what is neither an animal nor a human. */
function typeOf(taxon: Taxon | null): string {
  if (taxon?.name === 'Homo sapiens') return 'human';
  return taxon?.path[0] === 'Animalia' ? 'animal' : 'unknown';
}

function taxonomic(records: readonly Record[]) {
  const taxa = new Map<string, object>();
  for (const {answer, confirmed} of records) {
    const taxon = confirmed ? confirmed.taxon : answer;
    if (!taxon) continue;
    const above = RANKS.slice(0, -1).flatMap((rank, r) => (taxon.path[r] ? [[rank, taxon.path[r]]] : []));
    taxa.set(taxon.name, {scientificName: taxon.name, taxonRank: taxon.rank, ...Object.fromEntries(above)});
  }
  return [...taxa.keys()].sort().map((name) => taxa.get(name)!);
}

type Row = Place & {deploymentID: string; deploymentStart: string; deploymentEnd: string};

function description(rows: readonly Row[], records: readonly Record[]) {
  const origins = originsOf(records);
  const latest = origins.at(-1)!;
  return {
    profile: `${SCHEMAS}/camtrap-dp-profile.json`,
    created: latest.began,
    contributors: [...new Set(origins.map(({name}) => name))].map((title) => ({title, role: 'contributor'})),
    description:
      `Photographs named by a machine: ${origins.map(named).join('; ')}. ${origins.map(rule).join(' ')} media.filePath ` +
      'is relative to the folder that holds those of the photographs.',
    project: PROJECT,
    spatial: area(rows),
    temporal: {
      start: rows
        .map((row) => row.deploymentStart)
        .sort()[0]
        .slice(0, 10),
      end: rows
        .map((row) => row.deploymentEnd)
        .sort()
        .at(-1)!
        .slice(0, 10),
    },
    taxonomic: taxonomic(records),
    bioclip_lite: {model: latest.name, sha256: latest.sha256, thresholds: latest.thresholds},
    resources: ['deployments', 'media', 'observations'].map((name) => ({
      name,
      path: `${name}.csv`,
      profile: 'tabular-data-resource',
      format: 'csv',
      mediatype: 'text/csv',
      encoding: 'utf-8',
      schema: `${SCHEMAS}/${name}-table-schema.json`,
    })),
  };
}

/** The rectangle of all deployments, as GeoJSON; its corners counter-clockwise. */
function area(rows: readonly Row[]) {
  const [latitudes, longitudes] = [rows.map((row) => Number(row.latitude)), rows.map((row) => Number(row.longitude))];
  const [south, north] = [Math.min(...latitudes), Math.max(...latitudes)];
  const [west, east] = [Math.min(...longitudes), Math.max(...longitudes)];
  const ring = [
    [west, south],
    [east, south],
    [east, north],
    [west, north],
    [west, south],
  ];
  return {type: 'Polygon', coordinates: [ring]};
}
