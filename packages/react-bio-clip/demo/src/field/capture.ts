/** Time and place of the taking from EXIF, as workflow/bioclip_lite/photographs/images.py reads them. */

import exifr from 'exifr';

export interface Capture {
  /** ISO 8601, of the camera's clock. */
  time: string | null;
  /** The offset of that clock from UTC, "+02:00". */
  offset: string | null;
  /** Degrees (WGS 84). */
  latitude: number | null;
  longitude: number | null;
}

const AS_WRITTEN = {
  tiff: true,
  exif: true,
  gps: true,
  mergeOutput: false,
  translateValues: false,
  reviveValues: false,
};

export const OFFSET = /^[+-](0\d|1[0-4]):[0-5]\d$/;

/** Read EXIF from the content of a file. Broken data count as none. */
export async function capture(content: ArrayBuffer): Promise<Capture> {
  const {exif = {}, gps = {}} = (await exifr.parse(content, AS_WRITTEN).catch(() => undefined)) ?? {};
  const offset = textOf(exif.OffsetTimeOriginal);
  const latitude = degrees(gps.GPSLatitude, gps.GPSLatitudeRef, 'NS', 90);
  const longitude = degrees(gps.GPSLongitude, gps.GPSLongitudeRef, 'EW', 180);
  const isPlace = latitude !== null && longitude !== null;
  return {
    time: timeOf(exif.DateTimeOriginal) ?? timeOf(exif.DateTimeDigitized ?? exif.CreateDate),
    offset: OFFSET.test(offset) ? offset : null,
    latitude: isPlace ? latitude : null,
    longitude: isPlace ? longitude : null,
  };
}

const textOf = (value: unknown) => (typeof value === 'string' ? value.replace(/^[\0 ]+|[\0 ]+$/g, '') : '');

/** ISO 8601 from "2024:05:01 10:00:00"; null where a camera writes zeros or blanks. */
function timeOf(value: unknown): string | null {
  const parts = /^(\d{4}):(\d\d):(\d\d) (\d\d:\d\d:\d\d)$/.exec(textOf(value));
  if (!parts) return null;
  const [, year, month, day, clock] = parts;
  const time = `${year}-${month}-${day}T${clock}`;
  const moment = new Date(`${time}Z`);
  const isReal = !Number.isNaN(moment.getTime()) && moment.toISOString().startsWith(time); // no 30 February
  return isReal && year !== '0000' ? time : null;
}

/** Signed degrees from degrees, minutes and seconds, and their direction; null unless it is a place. */
function degrees(parts: unknown, reference: unknown, references: string, most: number): number | null {
  const at = references.indexOf(textOf(reference).toUpperCase() || '?');
  if (!Array.isArray(parts) || parts.length !== 3 || at < 0) return null;
  const [whole, minutes, seconds] = parts.map(Number);
  const value = (at === 0 ? 1 : -1) * (whole + minutes / 60 + seconds / 3600);
  return Math.abs(value) <= most ? Number(value.toFixed(7)) : null;
}
