"""Texts of many kinds, written for the tests of token counts."""

from __future__ import annotations

ENGLISH = (
    "The ferry left the harbour a little before dawn, while the town was still asleep and the gulls had the quay to "
    "themselves. Nobody on board said much; they watched the lights grow small and drank their coffee in silence.",
    "To change the filter, turn off the pump and wait until the pressure has dropped. Unscrew the lid by hand, lift "
    "the old cartridge out, and rinse the housing with clean water before you put the new one in.",
    "Our revenue grew by eleven percent in the second quarter, mostly because existing customers bought more. Costs "
    "were flat, and we expect the margin to improve again once the move to the new office is complete.",
    "She had always believed that a good question was worth more than a good answer, and she taught her students "
    "accordingly: every lesson began with something that none of them could explain.",
    "Please find attached the minutes of last week's meeting. If anything is missing or wrong, let me know by Thursday "
    "so that I can send the final version to the board before the end of the month.",
    "A retrieval system first splits long documents into passages, then compares the question with each of them, and "
    "finally hands the closest ones to a language model, which writes an answer that cites its sources.",
    "The committee met for the third time on Monday. It was agreed that the library should stay open until nine in the "
    "evening during the exams, and that two more students would be hired to look after the reading rooms.",
)
FRENCH = (
    "Le petit village se réveillait lentement sous la pluie, et l'odeur du pain frais montait déjà de la boulangerie.",
    "Pour résilier votre contrat, il suffit d'envoyer une lettre recommandée au moins deux mois avant l'échéance.",
    "N'oubliez pas d'éteindre la lumière, de fermer les fenêtres et de donner à manger au chat avant de partir !",
    "L'été dernier, nous avons traversé les Pyrénées à pied ; c'était épuisant, mais quels paysages…",
    "Quelle est la différence entre une hypothèse vérifiée et une théorie généralement acceptée ?",
)
GERMAN = (
    "Der Zug nach München fährt heute ausnahmsweise von Gleis sieben ab und hat etwa zwanzig Minuten Verspätung.",
    "Die Geschwindigkeitsbegrenzung gilt nur zwischen zweiundzwanzig und sechs Uhr, außer an Feiertagen.",
    "Können Sie mir bitte erklären, weshalb die Rechnung höher ausgefallen ist als im Kostenvoranschlag vereinbart?",
    "Das Bundesverfassungsgericht entschied, dass die Datenschutzgrundverordnung hier unmittelbar anzuwenden sei.",
    "Über den Wolken muss die Freiheit wohl grenzenlos sein, dachte sie und schloss müde die Augen.",
)
CHINESE = (
    "今天早上下了一场大雨，路上的车很多，所以我迟到了半个小时。",
    "请在提交申请之前仔细阅读以下条款，并确认您所填写的信息真实有效。",
    "这家饭馆的麻婆豆腐、宫保鸡丁和鱼香肉丝都很有名，葡萄和荔枝也很新鲜。",
    "機器學習模型需要大量的資料才能得到可靠的結果，但資料的品質比數量更重要。",
    "帝高陽之苗裔兮，朕皇考曰伯庸。攝提貞于孟陬兮，惟庚寅吾以降。",
)
JAPANESE = (
    "明日の会議は午後三時から始まりますので、資料を忘れずに持ってきてください。",
    "コンピューターのプログラムを書くのは楽しいですが、バグを見つけるのは大変です。",
    "桜の花が散る頃になると、いつも子供の頃に住んでいた町を思い出す。",
    "お問い合わせいただきありがとうございます。担当者より折り返しご連絡いたします。",
    "薔薇と檸檬の香りが、静かな部屋いっぱいに広がっていた。",
)
ARABIC = (
    "وصل القطار إلى المحطة في الساعة الثامنة صباحا، وكان الجو باردا جدا.",
    "يرجى قراءة الشروط والأحكام بعناية قبل التوقيع على العقد.",
    "تعلم اللغات الأجنبية يفتح أبوابا جديدة أمام الشباب في سوق العمل.",
    "هل يمكنك أن تشرح لي كيف تعمل هذه الآلة؟",
    "اَلسَّلَامُ عَلَيْكُمْ وَرَحْمَةُ ٱللَّهِ وَبَرَكَاتُهُ",
)
CODE = (
    "def fibonacci(n: int) -> int:\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a\n",
    "SELECT c.name, SUM(o.total) AS spent\nFROM customers c JOIN orders o ON o.customer_id = c.id\nGROUP BY c.name;\n",
    "const debounce = (fn, ms) => { let t; return (...a) => { clearTimeout(t); t = setTimeout(() => fn(...a), ms) } };",
    '#include <stdio.h>\n\nint main(int argc, char **argv) {\n\tprintf("%d\\n", argc);\n\treturn 0;\n}\n',
    '{"id": 42, "tags": ["a", "b"], "nested": {"ok": true, "ratio": 0.3333, "none": null}}',
    "<ul class=\"nav\"><li><a href='/about?x=1&amp;y=2'>About</a></li></ul>",
    "docker run --rm -it -v \"$PWD\":/src -p 8080:80 registry.example.com/app:1.2.3 sh -c 'ls -la | grep -v tmp'",
)
EMOJI = (
    "👍🏽👍🏽👍🏽",
    "👨‍👩‍👧‍👦 family, 🧑🏿‍💻 work, 🏳️‍🌈 pride",
    "🇫🇷🇩🇪🇯🇵🇪🇬",
    "Great news!!! 🎉🎉🎉 See you at 8️⃣ ❤️",
    "(╯°□°)╯︵ ┻━┻",
    "→ ✓ ✗ … — “quoted” ‘single’ • € ™",
)
LONG_WORDS = (
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz",
    "pneumonoultramicroscopicsilicovolcanoconiosis",
    "antidisestablishmentarianism",
    "supercalifragilisticexpialidocious",
)
LANGUAGES = {
    "English": ENGLISH,
    "French": FRENCH,
    "German": GERMAN,
    "Chinese": CHINESE,
    "Japanese": JAPANESE,
    "Arabic": ARABIC,
    "code": CODE,
    "emoji": EMOJI,
    "long words": LONG_WORDS,
}
