// All words of the page.

const confidence = (first, second, [sure, probable, possible]) => ({
  [`definitely ${first}`]: sure, [`probably ${first}`]: probable, [`possibly ${first}`]: possible,
  [`possibly ${second}`]: possible, [`probably ${second}`]: probable, [`definitely ${second}`]: sure,
});

const en = {
  language: "Svenska",
  pause: "Pause",
  help: "Keys",
  next: "Next",
  goOn: "Go on",
  blocks: { display: "Your display", practice: "Practice", single: "Radiographs", pair: "Pairs" },
  notices: {
    offline: "No connection to the server. Your answers are kept; trying again …",
    full: "The server cannot write to its disk. Your answers are kept; tell the study's leader.",
    moved: "The study went on in another window; this one follows it.",
  },
  sides: ["1  left", "2  right"],
  welcome: {
    title: "Reader study",
    text: [
      "You will see radiographs of femur fractures. Some are of patients, others were made by a computer. For each, say which it is, and what kind of fracture it shows.",
      "Every answer is saved when you go on, and cannot be changed afterwards. Stop whenever you like: the same link brings you back to where you were.",
      "Please use a radiology display in a dim room, and make the window as large as the screen.",
    ],
  },
  intros: {
    display: ["Check that your display shows faint differences in the dark and in the bright, and try the controls."],
    practice: ["Some radiographs to practise with. They do not count."],
    single: ["Now one radiograph at a time. Answer by your first full impression; the time is measured, and a pause stops it."],
    pair: ["Now two radiographs side by side: one is of a patient, one was made by a computer. Say which one was made by a computer."],
  },
  paused: { title: "Paused", text: ["The clock stands still."] },
  resumed: { title: "Welcome back", text: ["Everything up to here is saved."] },
  done: { title: "Thank you", text: ["You have answered everything. You can close this window."] },
  invalid: { title: "This link is not valid", text: ["Ask the study's leader for your link, and open all of it."] },
  failed: { title: "Something went wrong", text: ["Your saved answers are safe. Reload the page; if this comes back, tell the study's leader."] },
  keys: [
    ["1 … 6", "answer the marked question"], ["Tab", "next question"], ["Shift Tab", "question before"],
    ["Enter", "save and go on"], ["M", "remark; Esc leaves it"], ["P", "pause"],
    ["Drag", "window (left, right) and level (up, down)"], ["Shift + arrows", "the same by keyboard"],
    ["Wheel, + and −", "zoom"], ["Right drag, arrows", "move"],
    ["F", "fit"], ["O", "one to one"], ["I", "invert"], ["R", "reset"], ["H", "these keys"],
  ],
  questions: {
    visible: {
      title: "What can you see?",
      options: { dark: "the square in the black field", bright: "the square in the white field", lines: "at one to one (O), all the lines in the middle" },
    },
    source: {
      title: "Real or synthetic?", groups: ["Real", "Synthetic"],
      options: confidence("real", "synthetic", ["certain", "probable", "possible"]),
    },
    label: {
      title: "Which fracture?", groups: ["Normal (NFF)", "Atypical (AFF)"],
      options: confidence("NFF", "AFF", ["certain", "probable", "possible"]),
    },
    realism: {
      title: "How realistic does it look?",
      options: { "not at all": "not at all", hardly: "hardly", partly: "partly", mostly: "mostly", fully: "fully" },
    },
    artefacts: {
      title: "What looks wrong?",
      options: {
        anatomy: "anatomy", fracture: "the fracture", texture: "bone texture or noise",
        pattern: "edges, seams, repeats", implant: "implants, marks, letters", contrast: "contrast or grey values",
      },
    },
    remark: { title: "Remark" },
    synthetic: { title: "Which one is synthetic?", options: { left: "left", right: "right" } },
  },
};

const sv = {
  language: "English",
  pause: "Paus",
  help: "Tangenter",
  next: "Nästa",
  goOn: "Fortsätt",
  blocks: { display: "Din skärm", practice: "Övning", single: "Röntgenbilder", pair: "Bildpar" },
  notices: {
    offline: "Ingen kontakt med servern. Dina svar finns kvar; försöker igen …",
    full: "Servern kan inte skriva till sin disk. Dina svar finns kvar; kontakta studieledaren.",
    moved: "Studien har fortsatt i ett annat fönster; det här följer med.",
  },
  sides: ["1  vänster", "2  höger"],
  welcome: {
    title: "Granskningsstudie",
    text: [
      "Du kommer att få se röntgenbilder av femurfrakturer. En del är av patienter, andra är gjorda av en dator. Bedöm för varje bild vilket det är, och vilken sorts fraktur den visar.",
      "Varje svar sparas när du går vidare och kan sedan inte ändras. Gör uppehåll när du vill: samma länk tar dig tillbaka dit där du var.",
      "Använd helst en granskningsskärm i ett dämpat rum, och gör fönstret lika stort som skärmen.",
    ],
  },
  intros: {
    display: ["Kontrollera att skärmen visar svaga skillnader i mörkt och i ljust, och prova reglagen."],
    practice: ["Några bilder att öva på. De räknas inte."],
    single: ["Nu en bild i taget. Svara efter ditt första samlade intryck; tiden mäts, och paus stoppar klockan."],
    pair: ["Nu två bilder bredvid varandra: en är av en patient, en är gjord av en dator. Ange vilken som är gjord av en dator."],
  },
  paused: { title: "Paus", text: ["Klockan står stilla."] },
  resumed: { title: "Välkommen tillbaka", text: ["Allt hittills är sparat."] },
  done: { title: "Tack", text: ["Du har svarat på allt. Du kan stänga fönstret."] },
  invalid: { title: "Länken gäller inte", text: ["Be studieledaren om din länk och öppna hela länken."] },
  failed: { title: "Något gick fel", text: ["Dina sparade svar är i säkerhet. Ladda om sidan; om felet kommer tillbaka, kontakta studieledaren."] },
  keys: [
    ["1 … 6", "svara på den markerade frågan"], ["Tab", "nästa fråga"], ["Shift Tab", "föregående fråga"],
    ["Enter", "spara och gå vidare"], ["M", "anmärkning; Esc lämnar den"], ["P", "paus"],
    ["Dra", "kontrast (vänster, höger) och ljusstyrka (upp, ner)"], ["Shift + pilar", "samma med tangentbordet"],
    ["Hjul, + och −", "zooma"], ["Dra med höger knapp, pilar", "flytta"],
    ["F", "hela bilden"], ["O", "ett till ett"], ["I", "invertera"], ["R", "återställ"], ["H", "tangenterna"],
  ],
  questions: {
    visible: {
      title: "Vad kan du se?",
      options: { dark: "rutan i det svarta fältet", bright: "rutan i det vita fältet", lines: "vid ett till ett (O), alla linjer i mitten" },
    },
    source: {
      title: "Äkta eller syntetisk?", groups: ["Äkta", "Syntetisk"],
      options: confidence("real", "synthetic", ["säkert", "troligen", "kanske"]),
    },
    label: {
      title: "Vilken fraktur?", groups: ["Vanlig (NFF)", "Atypisk (AFF)"],
      options: confidence("NFF", "AFF", ["säkert", "troligen", "kanske"]),
    },
    realism: {
      title: "Hur verklighetstrogen är bilden?",
      options: { "not at all": "inte alls", hardly: "knappt", partly: "delvis", mostly: "mest", fully: "helt" },
    },
    artefacts: {
      title: "Vad ser fel ut?",
      options: {
        anatomy: "anatomin", fracture: "frakturen", texture: "benstruktur eller brus",
        pattern: "kanter, skarvar, upprepningar", implant: "implantat, markeringar, bokstäver", contrast: "kontrast eller gråskala",
      },
    },
    remark: { title: "Anmärkning" },
    synthetic: { title: "Vilken är syntetisk?", options: { left: "vänster", right: "höger" } },
  },
};

export const texts = { en, sv };
