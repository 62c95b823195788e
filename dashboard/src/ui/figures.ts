// Figures in words: counts, sizes, money. What was not measured stays absent.

export function count(value: number): string {
  return value < 10_000 ? String(value) : value.toLocaleString('en-US');
}

/** A count with its noun: `1 call`, `2 calls`. */
export function many(value: number, one: string, more = `${one}s`): string {
  return `${count(value)} ${value === 1 ? one : more}`;
}

export function bytes(value: number): string {
  if (value < 1_024) return `${value} B`;
  const units = ['KiB', 'MiB', 'GiB', 'TiB'];
  let scaled = value;
  let unit = -1;
  while (scaled >= 1_024 && unit < units.length - 1) {
    scaled /= 1_024;
    unit += 1;
  }
  return `${scaled < 10 ? scaled.toFixed(1) : Math.round(scaled)} ${units[unit]}`;
}

export function short(value: number): string {
  if (value < 10_000) return String(value);
  if (value < 1_000_000) return `${(value / 1_000).toFixed(value < 100_000 ? 1 : 0)} k`;
  return `${(value / 1_000_000).toFixed(1)} M`;
}

/** Adds decimals exactly, digit by digit: money is never a binary fraction. */
export function sum(amounts: readonly string[]): string {
  const places = Math.max(0, ...amounts.map((amount) => amount.split('.')[1]?.length ?? 0));
  let total = 0n;
  for (const amount of amounts) {
    const [whole = '0', fraction = ''] = amount.split('.');
    total += BigInt(`${whole}${fraction.padEnd(places, '0')}`);
  }
  const text = total.toString().padStart(places + 1, '0');
  return places === 0 ? text : `${text.slice(0, -places)}.${text.slice(-places)}`;
}

export function money({ amount, currency }: { amount: string; currency: string }): string {
  const [whole = '0', fraction = ''] = amount.split('.');
  // Cents, and as many places more as it takes to show two digits that are not zero.
  const significant = fraction.search(/[1-9]/);
  const keep = whole !== '0' || significant < 0 ? 2 : Math.max(2, significant + 2);
  const cut = fraction.slice(0, keep).padEnd(2, '0');
  return `${currency === 'USD' ? '$' : `${currency} `}${whole}.${cut}`;
}
