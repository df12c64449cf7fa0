// Refreshes the parts of a page that have `data-refresh`; everything works without it.
"use strict";

const interval = 1000 * Number(document.body.dataset.interval || 2);
let timer = 0;
let failedSince = 0;

function isBusy(part) {
  // Somebody types, or has selected text to copy it.
  const selection = document.getSelection();
  const selected = selection && !selection.isCollapsed && part.contains(selection.anchorNode);
  return selected || (part.contains(document.activeElement) && document.activeElement.matches("input, select"));
}

function showOutage(text) {
  let banner = document.getElementById("outage");
  if (!text) {
    if (banner) banner.remove();
    return;
  }
  if (!banner) {
    banner = document.createElement("p");
    banner.id = "outage";
    banner.className = "banner";
    banner.setAttribute("role", "alert");
    document.getElementById("main").prepend(banner);
  }
  banner.textContent = text;
}

async function refresh(part) {
  const response = await fetch(part.dataset.refresh, { redirect: "error", credentials: "same-origin" });
  const text = await response.text();
  if (response.status === 401) throw new Error("the session has ended; log in again");
  if (isBusy(part)) return;
  const focused = part.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  part.innerHTML = text;
  if (focused) part.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
}

async function turn() {
  try {
    await Promise.all([...document.querySelectorAll("[data-refresh]")].map(refresh));
    failedSince = 0;
    showOutage("");
  } catch (error) {
    failedSince = failedSince || Date.now();
    const seconds = Math.round((Date.now() - failedSince) / 1000);
    showOutage(`The console can't be reached, or you are logged out (for ${seconds} s). Reload the page.`);
  }
  schedule();
}

function schedule() {
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(turn, interval);
}

document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : turn()));
if (document.querySelector("[data-refresh]")) schedule();
