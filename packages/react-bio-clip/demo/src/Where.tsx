/** Ask where and when the photograph was taken, if the visitor wants both to count. */

import type {ClassifyOptions} from 'react-bio-clip';
import {useEffect, useState} from 'react';
import type {ReactNode} from 'react';

import {useTexts} from './texts.js';

export type Where = Pick<ClassifyOptions, 'place' | 'date'>;

const THIS_MONTH = new Date().toISOString().slice(0, 7);

export function WhereField({onChange}: {onChange: (where: Where) => void}): ReactNode {
  const {t} = useTexts();
  const [counts, setCounts] = useState(false);
  const [latitude, setLatitude] = useState('');
  const [longitude, setLongitude] = useState('');
  const [month, setMonth] = useState(THIS_MONTH);
  const [lost, setLost] = useState(false);

  useEffect(() => {
    const place = {latitude: Number(latitude), longitude: Number(longitude)};
    const known =
      latitude &&
      longitude &&
      /^\d{4}-(0[1-9]|1[0-2])$/.test(month) &&
      Math.abs(place.latitude) <= 90 &&
      Math.abs(place.longitude) <= 180;
    onChange(counts && known ? {place, date: month} : {});
  }, [counts, latitude, longitude, month, onChange]);

  const locate = () =>
    navigator.geolocation.getCurrentPosition(
      ({coords}) => {
        setLatitude(coords.latitude.toFixed(2));
        setLongitude(coords.longitude.toFixed(2));
        setLost(false);
      },
      () => setLost(true),
    );

  return (
    <fieldset className="where">
      <label>
        <input type="checkbox" checked={counts} onChange={(event) => setCounts(event.target.checked)} />
        <span>{t('where.count')}</span>
      </label>
      {counts && (
        <div>
          <Degrees name={t('where.latitude')} most={90} value={latitude} onChange={setLatitude} />
          <Degrees name={t('where.longitude')} most={180} value={longitude} onChange={setLongitude} />
          <label>
            <span>{t('where.month')}</span>
            <input type="month" value={month} onChange={(event) => setMonth(event.target.value)} />
          </label>
          <button type="button" onClick={locate}>
            {t('where.here')}
          </button>
          {lost && <p className="note">{t('where.unknown')}</p>}
        </div>
      )}
    </fieldset>
  );
}

interface DegreesProps {
  name: string;
  most: number;
  value: string;
  onChange: (value: string) => void;
}

function Degrees({name, most, value, onChange}: DegreesProps) {
  return (
    <label>
      <span>{name}</span>
      <input
        type="number"
        min={-most}
        max={most}
        step="any"
        value={value}
        onChange={(event) => onChange(event.target.value)}
      />
    </label>
  );
}
