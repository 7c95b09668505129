/** Table of the photographs, observation by observation, with what the model and what a person says of each. */

import {useState} from 'react';
import type {ReactNode} from 'react';

import {Bar, isOffList, Name, named, remarks} from '../Answer.js';
import {common, percent, scientific} from '../names.js';
import {useTexts} from '../texts.js';
import type {Texts} from '../texts.js';
import {RANKS} from './forms/records.js';
import type {Decision, Note} from './store.js';
import {Thumbnail} from './Thumbnail.js';

/** Observations that are shown at first, and with each "more". */
const PAGE = 60;

interface Actions {
  onDecide: (keys: readonly string[], path: Decision['path'] | undefined) => void;
  onEdit: (key: string) => void;
}

interface Props extends Actions {
  groups: readonly (readonly Note[])[];
}

export function Observations({groups, onDecide, onEdit}: Props): ReactNode {
  const {t, counted} = useTexts();
  const [shown, setShown] = useState(PAGE);
  const rest = groups.length - shown;
  return (
    <>
      <table className="notes">
        <caption className="visually-hidden">{t('field.table')}</caption>
        <thead>
          <tr>
            <th scope="col">{t('field.photograph')}</th>
            <th scope="col">{t('field.taxon')}</th>
            <th scope="col">{t('field.rank')}</th>
            <th scope="col">{t('field.certainty')}</th>
            <th scope="col">{t('field.time')}</th>
            <th scope="col">{t('field.place')}</th>
            <th scope="col">{t('field.decision')}</th>
          </tr>
        </thead>
        {groups.slice(0, shown).map((group, i) => (
          <tbody key={group[0].key}>
            <tr className="observation">
              <th scope="rowgroup" colSpan={7}>
                {t('field.observation', {number: String(i + 1)})}
                <span className="note">
                  {' '}
                  {[whenOf(group[0].time), ...(group.length > 1 ? [counted('field.photographs', group.length)] : [])]
                    .filter(Boolean)
                    .join(' · ')}
                </span>
              </th>
            </tr>
            {group.map((note) => (
              <Row key={note.key} note={note} onDecide={onDecide} onEdit={onEdit} />
            ))}
          </tbody>
        ))}
      </table>
      {rest > 0 && (
        <button type="button" onClick={() => setShown(shown + PAGE)}>
          {counted('field.more', Math.min(rest, PAGE))}
        </button>
      )}
    </>
  );
}

/** "2026-05-01 10:00" of the camera's clock. */
const whenOf = (time: string | null) => time?.slice(0, 16).replace('T', ' ') ?? null;

const whereOf = ({latitude, longitude}: Note) =>
  latitude === null ? null : `${latitude.toFixed(5)}, ${longitude!.toFixed(5)}`;

function Row({note, onDecide, onEdit}: {note: Note} & Actions): ReactNode {
  const texts = useTexts();
  const {t} = texts;
  const {name, decision} = note;
  const answer = answerOf(note);
  const isConfirmed = decision !== null && answer !== null && isSame(decision.path, answer.path);
  const isRejected = decision !== null && decision.path === null;
  const toggle = (isSet: boolean, path: Decision['path']) => onDecide([note.key], isSet ? undefined : path);
  return (
    <tr className={decision ? 'decided' : ''}>
      <td className="picture">
        <button type="button" onClick={() => onEdit(note.key)} aria-label={`${t('field.change')}: ${name}`}>
          <Thumbnail of={note.thumbnail} alt="" />
        </button>
        <span className="file">{name.slice(name.lastIndexOf('/') + 1)}</span>
      </td>
      <td className="taxon">
        <Taxon note={note} />
      </td>
      <td className="rank">{(decision ? decision.path : answer) && texts.rank(rankOf(note))}</td>
      <td className="certainty">
        {answer && (
          <>
            <span className="percent">{percent(answer.probability)}</span>
            <Bar share={answer.probability} />
          </>
        )}
      </td>
      <td className="time">{whenOf(note.time)?.slice(11) ?? <span className="note">{t('field.notime')}</span>}</td>
      <td className="place">{whereOf(note) ?? <span className="note">{t('field.noplace')}</span>}</td>
      <td className="decide">
        <div className="buttons">
          {answer && (
            <button
              type="button"
              aria-pressed={isConfirmed}
              aria-label={`${t('field.confirm')}: ${scientific(answer)}, ${name}`}
              onClick={() => toggle(isConfirmed, answer.path)}
            >
              {t('field.confirm')}
            </button>
          )}
          <button type="button" aria-label={`${t('field.change')}: ${name}`} onClick={() => onEdit(note.key)}>
            {t('field.change')}
          </button>
          <button
            type="button"
            aria-pressed={isRejected}
            aria-label={`${t('field.reject')}: ${name}`}
            onClick={() => toggle(isRejected, null)}
          >
            {t('field.reject')}
          </button>
        </div>
      </td>
    </tr>
  );
}

/** The answer of the model; the best guess of one without thresholds. */
export const answerOf = ({answer, model}: Note) => named(answer, model.thresholds ? 1 : null);

export const isSame = (one: Decision['path'], other: Decision['path']) => JSON.stringify(one) === JSON.stringify(other);

/** Rank of what a person says, else of the answer; '' for neither. */
function rankOf(note: Note): string {
  const {decision} = note;
  if (decision) return decision.path ? RANKS[decision.path.length - 1] : '';
  return answerOf(note)?.rank ?? '';
}

function Taxon({note}: {note: Note}): ReactNode {
  const texts = useTexts();
  const {t, language} = texts;
  const {decision, answer: found} = note;
  const answer = answerOf(note);
  if (decision) {
    const state = stateOf(decision, answer, texts);
    return (
      <>
        {decision.path && (
          <span className="name">
            <Name of={{rank: rankOf(note), path: decision.path}} />
          </span>
        )}
        <span className="badge">{state}</span>
        {!isSame(decision.path, answer?.path ?? null) && (
          <span className="remark">{t('field.model', {answer: answer ? scientific(answer) : t('answer.unsure')})}</span>
        )}
      </>
    );
  }
  const [first] = found.taxa;
  const told = [
    ...(answer ? remarks(answer, texts) : []),
    ...(isOffList(found) ? [t('answer.offlist.spoken')] : []),
    ...(note.model.thresholds ? [] : [t('answer.uncalibrated.spoken')]),
  ];
  return (
    <>
      <span className="name">
        {answer ? <Name of={answer} /> : t('answer.unsure')}
        {answer && (
          <span className="common" lang={language}>
            {common(answer, language)}
          </span>
        )}
      </span>
      {!answer && first && (
        <span className="remark">
          {t('field.perhaps')} <Name of={first} />, {percent(first.probability)}
        </span>
      )}
      {told.length > 0 && <span className="remark">{told.join('; ')}</span>}
    </>
  );
}

function stateOf({path}: Decision, answer: ReturnType<typeof answerOf>, {t}: Texts): string {
  if (!path) return t('field.rejected');
  return isSame(path, answer?.path ?? null) ? t('field.confirmed') : t('field.changed');
}
