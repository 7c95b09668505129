/** index.js as text: `files` by name, `photo` and what it shows. */
export function moduleOf({bundle, files, photo, shows}) {
  const listed = Object.entries(files).map(([name, content]) => `  ${JSON.stringify(name)}: ${bytes(content)},\n`);
  return [
    '// Written by react-bio-clip-sample/scripts.',
    'const bytes = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));',
    `export const photo = ${bytes(photo)};`,
    `export const shows = ${JSON.stringify(shows)};`,
    `export default {bundle: ${JSON.stringify(bundle)}, files: {\n${listed.join('')}}};\n`,
  ].join('\n');
}

const bytes = (content) => `bytes('${Buffer.from(content).toString('base64')}')`;
