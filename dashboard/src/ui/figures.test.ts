import { expect, test } from 'vitest';
import { bytes, money, sum } from './figures';

test('money is added exactly', () => {
  expect(sum(['0.1', '0.2'])).toBe('0.3');
  expect(sum(['3.75', '10', '0.000025'])).toBe('13.750025');
  expect(sum([])).toBe('0');
});

test('a small sum is not shown as nothing', () => {
  expect(money({ amount: '0.000025', currency: 'USD' })).toBe('$0.000025');
  expect(money({ amount: '12.3456', currency: 'USD' })).toBe('$12.34');
  expect(money({ amount: '5', currency: 'EUR' })).toBe('EUR 5.00');
});

test('sizes are in powers of 1024', () => {
  expect(bytes(1023)).toBe('1023 B');
  expect(bytes(1536)).toBe('1.5 KiB');
  expect(bytes(5 * 1024 ** 3)).toBe('5.0 GiB');
});
