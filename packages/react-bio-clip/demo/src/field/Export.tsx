/** Files for others: CSV, Darwin Core, Camtrap DP, made on this device. */

import type {BundleInfo} from 'react-bio-clip';
import {useState} from 'react';
import type {FormEvent, ReactNode} from 'react';

import {keep, kept} from '../kept.js';
import {useTexts} from '../texts.js';
import {Dialog} from './Dialog.js';
import {camtrapDp, deployments, fitting, type Deployment, type Place} from './forms/camtrap.js';
import {toCsv} from './forms/csv.js';
import {darwinCore, zipped} from './forms/darwin-core.js';
import {recordsOf, type Record} from './forms/records.js';
import type {Note} from './store.js';
import type {ListedTaxon} from './taxa.js';

const PERSON = 'bioclip-person';

interface Props {
  groups: readonly (readonly Note[])[];
  info: BundleInfo;
  taxa: readonly ListedTaxon[];
}

export function Export({groups, info, taxa}: Props): ReactNode {
  const {t} = useTexts();
  const [person, setPerson] = useState(() => kept(PERSON) ?? '');
  const [camtrap, setCamtrap] = useState(false);
  const records = () => recordsOf(groups, info, taxa, person.trim());
  const name = (text: string) => {
    setPerson(text);
    keep(PERSON, text);
  };
  return (
    <>
      <fieldset className="export">
        <legend>{t('field.export')}</legend>
        <label className="person">
          <span>{t('field.person')}</span>
          <input type="text" autoComplete="name" value={person} onChange={(event) => name(event.target.value)} />
        </label>
        <div className="buttons">
          <button type="button" onClick={() => save('field-notes.csv', 'text/csv', toCsv(records()))}>
            {t('field.export.csv')}
          </button>
          <button type="button" onClick={() => saveZip('field-notes-dwca.zip', darwinCore(records()))}>
            {t('field.export.dwc')}
          </button>
          <button type="button" onClick={() => setCamtrap(true)}>
            {t('field.export.camtrap')}
          </button>
        </div>
      </fieldset>
      {camtrap && <CamtrapDialog records={records()} onClose={() => setCamtrap(false)} />}
    </>
  );
}

/** Ask what Camtrap DP needs and photographs do not say: the offset of the clocks, and places of deployments. */
function CamtrapDialog({records, onClose}: {records: readonly Record[]; onClose: () => void}): ReactNode {
  const {t, counted} = useTexts();
  const fit = fitting(records);
  const found = deployments(fit);
  const left = records.length - fit.length;
  const write = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const given = new FormData(event.currentTarget);
    const text = (field: string) => String(given.get(field));
    const places = Object.fromEntries(
      found.map(({id}) => [id, {latitude: text(`latitude ${id}`), longitude: text(`longitude ${id}`)}]),
    );
    saveZip('field-notes-camtrap-dp.zip', camtrapDp(fit, text('offset'), places));
    onClose();
  };
  return (
    <Dialog title={t('camtrap.title')} onClose={onClose}>
      {fit.length === 0 ? (
        <p>{t('camtrap.nothing')}</p>
      ) : (
        <form className="camtrap" onSubmit={write}>
          <p className="note">{t('camtrap.about')}</p>
          {fit.some(({offset}) => offset === null) && (
            <label>
              <span>{t('camtrap.offset')}</span>
              <input name="offset" required pattern="[+\-](0\d|1[0-4]):[0-5]\d" defaultValue={offsetHere()} />
            </label>
          )}
          {found.map((deployment) => (
            <DeploymentFields key={deployment.id} of={deployment} />
          ))}
          {left > 0 && <p className="note">{counted('camtrap.out', left)}</p>}
          <button type="submit" className="first">
            {t('camtrap.write')}
          </button>
        </form>
      )}
    </Dialog>
  );
}

function DeploymentFields({of: {id, place}}: {of: Deployment}): ReactNode {
  const {t} = useTexts();
  const known: Partial<Place> = typeof place === 'string' ? {} : place;
  return (
    <fieldset>
      <legend>{id}</legend>
      {place === 'none' && <p className="note">{t('camtrap.unplaced')}</p>}
      {place === 'several' && <p className="note">{t('camtrap.several')}</p>}
      <div className="buttons">
        {(['latitude', 'longitude'] as const).map((side) => (
          <label key={side}>
            <span>{t(`where.${side}`)}</span>
            <input
              name={`${side} ${id}`}
              type="number"
              required
              min={side === 'latitude' ? -90 : -180}
              max={side === 'latitude' ? 90 : 180}
              step="any"
              defaultValue={known[side]}
            />
          </label>
        ))}
      </div>
    </fieldset>
  );
}

/** The present offset of this device's clock from UTC, "+02:00". */
function offsetHere(): string {
  const minutes = -new Date().getTimezoneOffset();
  const two = (number: number) => String(number).padStart(2, '0');
  return `${minutes < 0 ? '-' : '+'}${two(Math.floor(Math.abs(minutes) / 60))}:${two(Math.abs(minutes) % 60)}`;
}

const saveZip = (name: string, texts: {[name: string]: string}) => save(name, 'application/zip', zipped(texts));

/** Hand a file to the browser's downloads. */
function save(name: string, type: string, content: BlobPart): void {
  const url = URL.createObjectURL(new Blob([content], {type}));
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000); // downloads begin a moment later
}
