import { expect, test } from 'vitest';
import { LINES_MAX, Output, plain } from './ansi';

function shown(...chunks: string[]): string[] {
  const output = new Output();
  for (const chunk of chunks) output.push(chunk, false);
  return output.lines.map(plain);
}

test('colours are kept and their sequences are not shown', () => {
  const output = new Output();
  output.push('a \x1b[1;31mred\x1b[0m b\n', false);
  expect(output.lines.map(plain)).toEqual(['a red b']);
  expect(output.lines[0]?.pieces[1]?.style).toMatchObject({ bold: true, fg: '#ff7b72' });
  expect(output.lines[0]?.pieces[2]?.style).toEqual({});
});

test('a sequence that is cut between two chunks is still one', () => {
  for (const text of ['x\x1b[38;5;196my\r\nz', '\x1b]0;title\x07done']) {
    for (let cut = 1; cut < text.length; cut += 1) {
      expect(shown(text.slice(0, cut), text.slice(cut))).toEqual(shown(text));
    }
  }
});

test('a carriage return overwrites, as progress bars want it', () => {
  expect(shown('10%\r20%\r', '30%\ndone')).toEqual(['30%', 'done']);
  expect(shown('a\r\nb\r\n')).toEqual(['a', 'b']);
});

test('sequences that move, ask or set titles do nothing', () => {
  expect(shown('\x1b[2J\x1b[Hok\x1b[6n\x1b]8;;http://evil\x07link\x1b]8;;\x07')).toEqual(['oklink']);
});

test('output and errors do not share a line', () => {
  const output = new Output();
  output.push('half', false);
  output.push('oops\n', true);
  expect(output.lines.map((line) => [plain(line), line.error])).toEqual([
    ['half', false],
    ['oops', true],
  ]);
});

test('a flood of output is bounded, and says how much of it is gone', () => {
  const output = new Output();
  for (let chunk = 0; chunk < 30; chunk += 1) output.push('line\n'.repeat(1_000), false);
  expect(output.lines.length).toBe(LINES_MAX);
  expect(output.dropped).toBe(10_000);
  const one = new Output();
  one.push('x'.repeat(1_000_000), false);
  expect(one.lines.every((line) => plain(line).length <= 4_000)).toBe(true);
});
