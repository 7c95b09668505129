/** The model's origin, the meaning of its answers, and credits. */

import type {BundleInfo} from 'react-bio-clip';
import type {ReactNode} from 'react';

import {megabytes, percent, taxaOf} from './names.js';
import {useTexts} from './texts.js';

/** A text, a number, or a table of them. Hashes are shortened: their start tells them apart. */
function Value({of}: {of: unknown}): ReactNode {
  const {t, number} = useTexts();
  if (of === null || of === undefined || of === '') return t('about.nothing');
  if (typeof of === 'number') return number(of);
  if (typeof of === 'string' && /^[0-9a-f]{40,}$/.test(of)) return <code title={of}>{of.slice(0, 12)}</code>;
  if (typeof of !== 'object') return String(of);
  return <Lines of={of} />;
}

function Lines({of}: {of: object | undefined}): ReactNode {
  const {t} = useTexts();
  const entries = Object.entries(of ?? {}).map(([key, value]) => lineOf(key, value));
  if (!entries.length) return <p>{t('about.nothing')}</p>;
  return (
    <ul>
      {entries.map(([what, value]) => (
        <li key={what}>
          {what.replaceAll('_', ' ')}: <Value of={value} />
        </li>
      ))}
    </ul>
  );
}

/** Show rows {name, photographs} as "name: photographs". */
function lineOf(key: string, value: unknown): [string, unknown] {
  if (typeof value !== 'object' || value === null || !('name' in value)) return [key, value];
  const {name, ...rest} = value;
  const values = Object.values(rest);
  return [String(name ?? 'unknown'), values.length === 1 ? values[0] : rest];
}

export function About({info}: {info: BundleInfo}): ReactNode {
  const {t, rank, number, about} = useTexts();
  const {model, thresholds} = info;
  const byName = info.text.parts?.zero_shot ?? info.taxa.filter(({zero_shot}) => zero_shot).length;
  const facts: [string, string | null][] = [
    [t('about.knows'), t('about.taxa', {count: number(taxaOf(info))})],
    [t('about.byname'), byName ? about(byName) : null],
    [t('about.download'), megabytes(info.bytes)],
    [t('about.parameters'), model.parameters === undefined ? null : about(model.parameters)],
    [t('about.macs'), model.macs === undefined ? null : about(model.macs)],
    [t('about.nodes'), model.nodes === undefined ? null : about(model.nodes)],
    [t('about.looks'), t('about.pixels', {size: String(info.preprocess.size)})],
  ];
  return (
    <details className="about">
      <summary>{t('about.title')}</summary>
      <div className="about-parts">
        <section>
          <h3>{t('about.sure')}</h3>
          {thresholds ? (
            <>
              <p>
                {t('about.sure.text', {level: percent(thresholds.level)})}
                {byName > 0 && ` ${t('about.sure.byname', {count: about(byName)})}`}
              </p>
              <dl>
                {info.ranks.map((name) => (
                  <div key={name}>
                    <dt>{rank(name)}</dt>
                    <dd>{thresholds.ranks[name] == null ? t('about.sure.never') : percent(thresholds.ranks[name])}</dd>
                  </div>
                ))}
              </dl>
            </>
          ) : (
            <p>{t('about.uncalibrated')}</p>
          )}
        </section>
        <div>
          <section>
            <h3>{t('about.model')}</h3>
            <dl>
              {facts.map(
                ([what, value]) =>
                  value !== null && (
                    <div key={what}>
                      <dt>{what}</dt>
                      <dd>{value}</dd>
                    </div>
                  ),
              )}
            </dl>
          </section>
          <section>
            <h3>{t('about.provenance')}</h3>
            <Lines of={info.provenance} />
          </section>
        </div>
        <div>
          <section>
            <h3>{t('about.licences')}</h3>
            <Lines of={info.licences} />
          </section>
          <section>
            <h3>{t('about.attribution')}</h3>
            <Lines of={info.attribution} />
          </section>
        </div>
      </div>
    </details>
  );
}
