// A real browser, Debian's Chromium, and what every screen is held to.
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { chromium } from 'playwright-core';
import { DOCUMENTED } from './documented.mjs';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const HERE = dirname(new URL(import.meta.url).pathname);
export const ARTIFACTS = join(HERE, '..', '.artifacts');
const DOCS = join(HERE, '..', '..', '..', 'docs', 'screenshots');

export const DESKTOP = { width: 1280, height: 800 };
export const PHONE = { width: 390, height: 844 };

export async function launch() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
}

/** A part of a page by its heading. A dialog that is open over it is none, whatever it is called. */
export function panel(page, title) {
  return page.locator('section:not([role="dialog"])', { has: page.getByRole('heading', { name: title }) });
}

/** Presses the button of the dialog that does it, and waits until the dialog is gone: till then the page has two of it. */
export async function confirm(page, name) {
  const dialog = page.getByRole('dialog');
  await dialog.getByRole('button', { name, exact: true }).click();
  await dialog.waitFor({ state: 'detached' });
}

/** A page that is signed in at `node`, and keeps count of what must never happen. */
export async function open(
  browser,
  node,
  { viewport = DESKTOP, scheme = 'light', token = node.token, path = '/ui/' } = {},
) {
  const context = await browser.newContext({ viewport, colorScheme: scheme, reducedMotion: 'reduce' });
  if (token)
    await context.addInitScript((value) => {
      if (location.protocol === 'http:' && !sessionStorage.getItem('hiveward-token'))
        sessionStorage.setItem('hiveward-token', value);
    }, token);
  // What a script that came from data would do.
  await context.addInitScript(() => {
    window.__hits = [];
    window.hit = (what) => window.__hits.push(String(what));
  });
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  page.faults = [];
  page.on('pageerror', (error) => page.faults.push(error.stack ?? error.message));
  page.on('dialog', (dialog) => {
    page.faults.push(`a dialog opened: ${dialog.message()}`);
    void dialog.dismiss();
  });
  page.on('console', (message) => {
    if (/Content Security Policy|Refused to/.test(message.text())) page.faults.push(message.text());
  });
  await page.goto(node.url + path);
  return page;
}

export async function live(page) {
  await page.locator('[data-connection="live"]').waitFor();
}

/** What axe finds, worst first; nothing serious is let through. */
export async function accessible(page, where) {
  if (!(await page.evaluate(() => 'axe' in window))) await page.evaluate(AXE);
  const found = await page.evaluate(async () => {
    const { violations } = await window.axe.run(document, { resultTypes: ['violations'] });
    return violations
      .filter(({ impact }) => impact === 'serious' || impact === 'critical')
      .map(
        ({ id, impact, nodes }) =>
          `${impact} ${id}: ${nodes
            .slice(0, 3)
            .map(({ html, any }) => `${html.slice(0, 160)} (${any[0]?.message ?? ''})`)
            .join(' | ')}`,
      );
  });
  assert.deepEqual(found, [], `axe on ${where}`);
}

export async function sound(page, where) {
  assert.deepEqual(page.faults, [], `faults on ${where}`);
  assert.deepEqual(await page.evaluate(() => window.__hits), [], `scripts from data ran on ${where}`);
}

/** With DASHBOARD_SCREENSHOTS those that the documentation has become the repository's own. */
export async function picture(page, name) {
  const to = process.env.DASHBOARD_SCREENSHOTS && DOCUMENTED.includes(name) ? DOCS : join(ARTIFACTS, 'screenshots');
  mkdirSync(to, { recursive: true });
  await page.screenshot({ path: join(to, `${name}.png`) });
}
