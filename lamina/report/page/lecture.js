"use strict";
{
  const buttons = [...document.querySelectorAll(".tally button")];
  const claims = [...document.querySelectorAll(".claim")];
  const show = (verdict) => {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.verdict === verdict));
    for (const claim of claims) claim.hidden = verdict !== "" && claim.dataset.verdict !== verdict;
    for (const section of document.querySelectorAll("section.slides")) {
      section.hidden = verdict !== "" && !section.querySelector(".claim:not([hidden])");
      document.querySelector(`nav a[href="#${section.id}"]`).parentElement.hidden = section.hidden;
    }
    const count = claims.filter((claim) => !claim.hidden).length;
    document.querySelector(".shown").textContent = verdict ? `Showing ${count} of ${claims.length} claims.` : "";
  };
  for (const button of buttons) {
    button.addEventListener("click", () => show(button.getAttribute("aria-pressed") === "true" ? "" : button.dataset.verdict));
  }
  // A link into a section that the filter hides shows everything again.
  addEventListener("hashchange", () => {
    const target = document.getElementById(location.hash.slice(1));
    if (target && target.closest("[hidden]")) { show(""); target.scrollIntoView(); }
  });
}
