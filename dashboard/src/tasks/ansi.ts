// biome-ignore-all lint/suspicious/noControlCharactersInRegex: control characters are what this is about

// A program's output as lines of styled text. Knows colours and emphasis (SGR) and carriage returns; other control
// sequences are left out, never shown and never obeyed.

export type Style = {
  fg?: string;
  bg?: string;
  bold?: boolean;
  dim?: boolean;
  italic?: boolean;
  underline?: boolean;
  inverse?: boolean;
};
export type Piece = { text: string; style: Style };
export type Line = { id: string; pieces: Piece[]; error: boolean };

/** Lines that are kept; the first ones go when there are more. */
export const LINES_MAX = 20_000;
/** Of one line; a longer one is broken. */
const LINE_CHARS_MAX = 4_000;

const BASIC = ['#7f8790', '#ff7b72', '#7ee787', '#e3b341', '#79c0ff', '#d2a8ff', '#76e3ea', '#d0d7de'];
const BRIGHT = ['#a5adb6', '#ffa198', '#a5f3ab', '#f2cc60', '#a5d6ff', '#e2c5ff', '#b3f0f5', '#ffffff'];

function indexed(index: number): string {
  if (index < 8) return BASIC[index] ?? '';
  if (index < 16) return BRIGHT[index - 8] ?? '';
  if (index >= 232) {
    const grey = 8 + (index - 232) * 10;
    return `rgb(${grey},${grey},${grey})`;
  }
  const cube = index - 16;
  const part = (value: number) => (value === 0 ? 0 : 55 + value * 40);
  return `rgb(${part(Math.floor(cube / 36))},${part(Math.floor(cube / 6) % 6)},${part(cube % 6)})`;
}

/** The style after an SGR sequence with these parameters. */
export function styled(before: Style, parameters: number[]): Style {
  let style = { ...before };
  for (let at = 0; at < parameters.length; at += 1) {
    const code = parameters[at] ?? 0;
    if (code === 0) style = {};
    else if (code === 1) style.bold = true;
    else if (code === 2) style.dim = true;
    else if (code === 3) style.italic = true;
    else if (code === 4) style.underline = true;
    else if (code === 7) style.inverse = true;
    else if (code === 22) style = { ...style, bold: undefined, dim: undefined };
    else if (code === 23) style.italic = undefined;
    else if (code === 24) style.underline = undefined;
    else if (code === 27) style.inverse = undefined;
    else if (code >= 30 && code <= 37) style.fg = BASIC[code - 30];
    else if (code >= 90 && code <= 97) style.fg = BRIGHT[code - 90];
    else if (code === 39) style.fg = undefined;
    else if (code >= 40 && code <= 47) style.bg = BASIC[code - 40];
    else if (code >= 100 && code <= 107) style.bg = BRIGHT[code - 100];
    else if (code === 49) style.bg = undefined;
    else if (code === 38 || code === 48) {
      const kind = parameters[at + 1];
      let colour: string | undefined;
      if (kind === 5) {
        colour = indexed(Math.min(255, Math.max(0, parameters[at + 2] ?? 0)));
        at += 2;
      } else if (kind === 2) {
        const part = (offset: number) => Math.min(255, Math.max(0, parameters[at + offset] ?? 0));
        colour = `rgb(${part(2)},${part(3)},${part(4)})`;
        at += 4;
      }
      if (code === 38) style.fg = colour;
      else style.bg = colour;
    }
  }
  return style;
}

const TOKEN =
  /\x1b\[([0-9;:]*)([ -/]*[@-~])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\^_]|\x1b[ -/]*[0-~]|\r\n|\n|\r|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]/g;
// A sequence that is cut at the end of a chunk.
const UNFINISHED = /(?:\x1b(?:\[[0-9;:]*[ -/]*|\][^\x07\x1b]*)?|\r)$/;

export class Output {
  lines: Line[] = [];
  /** Lines that went because there were too many. */
  dropped = 0;
  #style: Style = {};
  #made = 0;
  #rest = '';
  /** The last line has not ended yet. */
  #open = false;
  /** The last line is overwritten by what comes next. */
  #returned = false;

  push(text: string, error: boolean): void {
    let whole = this.#rest + text;
    this.#rest = '';
    const unfinished = whole.length < 200_000 ? UNFINISHED.exec(whole) : null;
    if (unfinished && unfinished[0].length < 256) {
      this.#rest = unfinished[0];
      whole = whole.slice(0, unfinished.index);
    }
    let at = 0;
    TOKEN.lastIndex = 0;
    for (let token = TOKEN.exec(whole); token; token = TOKEN.exec(whole)) {
      this.#write(whole.slice(at, token.index), error);
      at = token.index + token[0].length;
      if (token[0] === '\n' || token[0] === '\r\n') this.#end(error);
      else if (token[0] === '\r') this.#returned = this.#open;
      else if (token[2] === 'm') this.#style = styled(this.#style, (token[1] ?? '').split(/[;:]/).map(Number));
    }
    this.#write(whole.slice(at), error);
    if (this.lines.length > LINES_MAX) {
      this.dropped += this.lines.length - LINES_MAX;
      this.lines = this.lines.slice(-LINES_MAX);
    } else {
      this.lines = [...this.lines];
    }
  }

  #write(text: string, error: boolean): void {
    for (let at = 0; at < text.length; at += LINE_CHARS_MAX) this.#piece(text.slice(at, at + LINE_CHARS_MAX), error);
  }

  #piece(text: string, error: boolean): void {
    const last = this.lines.at(-1);
    if (!last || !this.#open || last.error !== error) {
      this.lines.push(this.#line([{ text, style: this.#style }], error));
    } else if (this.#returned) {
      this.lines[this.lines.length - 1] = { ...last, pieces: [{ text, style: this.#style }] };
    } else if (length(last) + text.length > LINE_CHARS_MAX) {
      this.lines.push(this.#line([{ text, style: this.#style }], error));
    } else {
      this.lines[this.lines.length - 1] = { ...last, pieces: [...last.pieces, { text, style: this.#style }] };
    }
    this.#returned = false;
    this.#open = true;
  }

  #end(error: boolean): void {
    if (!this.#open) this.lines.push(this.#line([], error));
    this.#open = false;
    this.#returned = false;
  }

  #line(pieces: Piece[], error: boolean): Line {
    this.#made += 1;
    return { id: String(this.#made), pieces, error };
  }
}

function length(line: Line): number {
  return line.pieces.reduce((all, piece) => all + piece.text.length, 0);
}

export function plain(line: Line): string {
  return line.pieces.map((piece) => piece.text).join('');
}
