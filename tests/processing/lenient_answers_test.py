"""What the lenient reader takes from answers, by language, form and kind of options."""

import pytest

from fourd4d.processing.answers import lenient_answer

FOUR = (("Left", "Right", "Up", "Down"), {
    "A": [
        "My answer: A", "my choice is A", "I am confident that the answer is A.",
        "\\[\\boxed{\\text{A}}\\]", "<think>the answer is A</think>",
        "It moves to the left, not to the right.", "我选A", "最终答案：**A**", "回答：A",
        "Lösung: A", "La réponse correcte est (A)", "La opción correcta es la A",
        "A alternativa correta é A", "L'opzione A è corretta", "Ответ: А", "सही जवाब A है।",
        "Yanıt: A", "Đáp án đúng là A.", "Correct option: A", "Correct answer: A",
        "The right answer is A.", "(a) left", "a", "a.", "The answer is a.", "\\boxed{(A)}",
        "{\"option\": \"A\"}", "Camera B is on the left", "选 A。",
        "La bonne réponse est A, pas B", "Por lo tanto, la respuesta es A", "A resposta é A",
        "Quindi la risposta è A.", "The answer to this question is (A).",
        "My choice would be A.", "It is option A.", "I'd guess A.",
        "If I had to pick between A and B, I'd pick A.",
        "Both A and B look plausible, but the answer is A.", "A, as the car turns",
        "A because the car turns", "A is correct", "A is the right answer", "A would be correct",
        "A!", "A - Left", "A Left", "a left", "Person A walks left.", "答案为选项 A",
        "選択肢はAです", "그러므로 답은 A", "Bonne réponse : A",
    ],
    "B": [
        "The answer is B, not option A.", "Answer: B. Explanation: option A would go left.",
        "A. is wrong. The answer is B.", "<answer>b</answer>", "<answer>**B**</answer>",
        "<answer>\\boxed{B}</answer>", "<answer>[B]</answer>", "答案是B",
        "<think>x</think><answer>B、右</answer>", "<think>x</think><answer>Ｂ</answer>",
        "The answer is A. Wait, no, it should be B.", "The answer is A. Wait, no, B.",
        "It might be A. Actually, it's B.", "B, not A", "B rather than A", "Not A, but B",
        "The answer cannot be A. It is B.",
        "A) incorrect\nB) correct\nC) incorrect\nD) incorrect",
        "Options A, C and D can be eliminated. That leaves B.",
        "All options except B are wrong, so B.",
        "Let's look at the options:\nA. Left - no\nB. Right - yes, the cube moves "
        "right\nC. Up - no\nD. Down - no\nThe correct answer is B.", "B is right",
        "The best answer is option B", "choice b", "option b", "Option B", "(B)", "[B]", "{B}",
        "<B>", "\"B\"", "'B'", "“B”", "«B»", "`B`", "B.", "B)", "B:", "B,", "b", "b.", "(b)",
        "b)", "*B*", "__B__", "***B***", "B!", "I'll go with B", "I'm going with B.",
        "I believe the answer is B", "I think it's B", "I think B", "Definitely B", "Must be B",
        "Therefore, the answer is (B).", "Thus, B.", "Final answer: B", "FINAL ANSWER: B",
        "**Final Answer:** B", "### Final Answer\n\n**B**", "Final Answer\nB. Right",
        "The answer is: \n\nB", "The answer is 'B'.", "The answer is \"B. Right\".",
        "The answer is <b>B</b>.", "The answer is B) Right", "The answer is option B: Right",
        "The correct answer is B: Right because the car moves right and not left as "
        "option A says.", "\\boxed{\\text{B}}", "$\\boxed{B}$", "\\boxed{\\mathrm{(B)}}",
        "\\boxed{B. Right}", "\\boxed{Right}", "\\fbox{B}", "$B$", "\\text{B}",
        "\\boxed{A} is what I thought first, but the answer is \\boxed{B}",
        "So A moves... \\boxed{B}. Check: A is wrong.", "{\"answer\": \"B\"}",
        "{\"answer\": \"B\", \"confidence\": 0.9}", "{\"choice\": \"b\"}",
        "{\"answer\": {\"letter\": \"B\"}}", "[\"B\"]", "answer = 'B'", "<option>B</option>",
        "<ans>B</ans>", "{\"answer\": \"Right\"}", "<answer>A</answer><answer>B</answer>",
        "<answer>\nB\n</answer>", "<answer>Right</answer>", "<answer>right.</answer>",
        "<answer>It moves right</answer>", "<answer></answer>B", "<ANSWER>B</ANSWER>",
        "<answer>B", "B</answer>", "<answer> B - Right </answer>",
        "<answer>B because A is wrong</answer>", "<think>It could be A.</think> B",
        "<think>A. Left is wrong. B. Right fits.</think>\nThe answer is B. Right",
        "<think>Hmm</think>\n\n**B. Right**", "<think>x</think>\nThe cube moves to the right.",
        "</think>B", "<answer>answer: B</answer>", "Right", "right", "RIGHT!",
        "The cube moves right.", "Not left but right", "It is moving left. Answer: B",
        "The answer is B. Right", "B - right", "B Right", "B (Right)", "Right (B)",
        "Right, so B", "Right → B", "选B", "B选项", "不是A，而是B", "正确选项是 B",
        "选项B是正确的", "B是正确的", "答案选B", "应该选B", "A错误，B正确", "綜上，答案為B",
        "選擇B", "选择 B，因为 A 不对", "B、右", "B。", "（B）", "【答案】B",
        "答案是B，因为选项A是错的", "答えはB", "答えはBです。", "Bです", "選択肢Bが正しいです",
        "Bが正解です", "AではなくB", "Bを選びます", "정답은 B", "정답은 B입니다.",
        "B가 정답입니다", "B번", "A가 아니라 B", "Die Antwort ist B", "Ich wähle B.",
        "Option B ist richtig", "Nicht A, sondern B", "Richtig ist B", "La réponse est B",
        "Je choisis B", "C'est B", "Réponse B", "La respuesta es la B", "Elijo B",
        "La opción B es correcta", "La respuesta no es A, sino B", "A resposta é B",
        "Escolho a opção B", "La risposta è B", "Scelgo B", "Ответ: B", "Ответ: В",
        "Правильный ответ: B", "Верный вариант B", "Я выбираю B", "Ответ: Б",
        "Вариант В правильный", "Не А, а В", "الإجابة هي B", "الإجابة الصحيحة: B", "الخيار B",
        "उत्तर B", "सही उत्तर B है", "Cevap B", "Doğru cevap B şıkkı", "Đáp án là B", "Chọn B",
        "Odpowiedź: B", "Het antwoord is B", "Svaret är B", "Vastaus: B", "Jawaban: B",
        "คำตอบคือ B", "התשובה היא B", "Η απάντηση είναι B", "Відповідь: B", "Odpověď: B",
        "پاسخ: B", "উত্তর: B", "Válasz: B", "The car moves to the right, so the answer is B.",
        "A: Left\nB: Right\nC: Up\nD: Down\n\nBased on the video, the correct option is B.",
        "B. Right\n\nExplanation: The car starts at the left and moves to the right.",
        "B\n\nThe car starts at the left.", "The answer:\nB", "Answer:\n\n(B) Right",
        "correct: B", "Based on the analysis, option B (Right) is correct.",
        "I'm torn between A and B, but I'll go with B.", "A or B? I'd say B.",
        "The answer is B (not A).", "The answer is B; A and C are wrong.", "B and not A",
        "B instead of A", "Rather than A, B", "Rather than A, the answer is B",
        "It's B and definitely not C.", "Is it A? No, it's B.",
        "Answer A is wrong; answer B is right.", "Option A is not correct, so option B",
        "Only B fits.", "B makes sense.", "which is option B",
        "The movement is to the right, which corresponds to B.", "that is, B",
        "The answer is (b).", "the answer is b", "\\boxed{\\text{Option B}}", "\\boxed{ B }",
        "Final answer: \\(B\\)", "\\mathbf{B}", "**B.** Right", "**B. Right**", "*Answer*: B",
        "- B", "> B", "# B", "1. B", "• B. Right", "✅ B", "➡️ B", "Answer ➜ B", "Answer → B",
        "| Answer | B |", "Ｂ", "（Ｂ）", "答案：Ｂ", "Answer：B", "Ⓑ", "𝐁", "ｂ", "【B】",
        "「B」", "B️", "<think>A?</think>\n\nAnswer: B", "<think>I'd say B</think><answer>",
        "<answer>B</answer> because option A is wrong", "<answer>It is B, not A</answer>",
        "Answer: <answer>B", "<answer> option b </answer>", "<answer>B: Right</answer>",
        "<answer>(b)</answer>", "<answer>B/Right</answer>", "<answer>'B'</answer>",
        "<answer>$B$</answer>", "<answer>B. Right.</answer>",
        "<answer>The car moves right, B</answer>",
        "{\"answer\":\"B\",\"explanation\":\"Option A is wrong\"}", "{\"result\": \"B\"}",
        "answer: B\nreason: A is wrong", "```\nB\n```", "{\"answer\": \"b\"}",
        "选项 B 正确，A 错误", "是B", "B是对的", "B 是正确答案", "正确的是B",
        "因此，正确答案是选项B：右。", "不选A，选B", "答案是A吗？不，答案是B", "最佳答案为B",
        "B正确", "车向右移动，所以是B", "故选：B", "答案就是B", "答案是 **B. 右**",
        "选择的答案是B", "答えは「B」です", "正解：B", "答えはAではなくBです", "Bが正しい",
        "正解はBの右です", "답은 B번입니다.", "정답은 A가 아니라 B입니다", "B를 선택합니다",
        "B가 맞습니다", "옵션 B", "Die Antwort ist B, nicht A.", "Antwort B ist richtig",
        "Es ist B", "Ich würde B wählen", "A ist falsch, B ist richtig.", "Daher B.",
        "La réponse n'est pas A mais B", "Je pense que c'est B", "La réponse est donc B.",
        "A est faux, B est correct", "Option B : Droite", "Je dirais B",
        "La respuesta es B, no A", "Creo que es la B", "Es B", "Opción B", "La letra B",
        "A resposta certa é B", "Opção B", "É a B", "Gabarito: B", "La risposta esatta è B",
        "Opzione B", "Penso che sia B", "Правильный ответ: вариант B", "Верный ответ — В",
        "Это B", "Ответ не A, а B", "Правильным является вариант B", "Ответ: (В)",
        "الإجابة الصحيحة هي الخيار B", "الخيار الصحيح هو B", "أختار B", "ليست A بل B",
        "सही उत्तर है B", "विकल्प B सही है", "सही विकल्प: B", "उत्तर A नहीं, B है",
        "Doğru cevap: B", "Cevap B'dir", "Cevap A değil B", "B şıkkı doğrudur", "Bence B",
        "Cevabım B", "Câu trả lời là B", "Đáp án B", "Chọn đáp án B",
        "Đáp án không phải A mà là B", "B là đáp án đúng", "Jawaban yang benar adalah B",
        "Pilihan B", "Ik kies B", "Rätt svar är B", "Oikea vastaus on B",
        "Prawidłowa odpowiedź to B.", "A helyes válasz: B", "Răspunsul corect este B",
        "Правильна відповідь: B", "התשובה הנכונה היא B", "پاسخ صحیح B است", "সঠিক উত্তর B",
        "คำตอบที่ถูกต้องคือ B", "ตอบ B", "ข้อ B", "Sagot: B",
        "<think>\nThe video shows a red cube. At first it's on the left. Then it moves. "
        "Option A (Left) doesn't match since it moves away. Option B (Right) matches. "
        "Let me double check: C would require vertical motion. So the answer should be "
        "B.\n</think>\n\nThe red cube moves to the right across the frames.\n\n**Answer: B**",
        "Let's analyze each option:\n\nA. Left: The object does not move left.\nB. "
        "Right: The object moves right in all frames.\nC. Up: no vertical motion.\nD. "
        "Down: no vertical motion.\n\nSo, the answer is B.",
        "Step 1: find the cube. Step 2: compare. The displacement is +3 in x. Hence the "
        "cube moves right. Final: B",
        "I would eliminate A and C since the object moves horizontally... wait, A is "
        "horizontal. Between A and B, the motion is to the right. Answer: B",
        "A seems plausible, but B is more accurate.", "B is more likely than A.",
        "B is the most likely answer.", "Most likely B.", "The option that best fits is B.",
        "The correct letter is B.", "The choice is clear: B",
        "We can conclude that the answer is B.", "We conclude B.", "It's option B",
        "Answer choice B", "Answer choice: B", "Answer (B)", "Answer B.", "Answer [B]",
        "answer B", "the answer: (B)", "The answer, then, is B.", "The answer is, of course, B.",
        "The answer is clearly B", "The answer is B!", "The answer is B?", "THE ANSWER IS B",
        "the answer is B) right", "The answer is B - Right", "The answer is B, Right",
        "The answer is B (Right)", "The answer is Right (B)", "The answer is Right.",
        "The answer is option \"Right\"", "The answer is (Right)",
        "I don't think it's A, I think it's B", "Not sure, maybe B", "My guess is B",
        "If I had to choose, I'd choose B.", "Both A and B look plausible but I choose B",
        "The answer is A. No, wait. The answer is B.", "A\n\nWait, actually B.",
        "A. Hmm, let me reconsider. B.", "Answer: A\n\nCorrection: B", "Sorry, I meant B.",
        "Answer: A -> B", "~~A~~ B", "A → no. B → yes. C → no. D → no.",
        "(A) ❌ (B) ✅ (C) ❌ (D) ❌", "A => wrong\nB => correct", "B<|endoftext|>",
        "<|im_start|>assistant\nB<|im_end|>", "B (the cube moves right)",
        "B because the cube moves",
        "B since it moves", "B as it moves", "B — the cube moves right", "B – Right",
        "B | Right", "B\tRight", "B.Right", "B)Right", "(B)Right", "B :Right", "B. right side",
        "B. It moves right", "B. Moves to the right.", "B is my answer",
        "B is the answer because A does not fit.", "B would be correct.", "B it is.",
        "B for sure", "B, I think", "B I think", "B, as the car turns", "A right turn is made",
        "经过分析，选项A、C、D都不正确，所以答案是B。", "这个问题的答案是：B. Right",
        "答案是 B. Right，不是 A. Left", "A：不对。B：对。C：不对。", "答案 B", "答：B", "选(B)",
        "选【B】", "B为正确答案", "所以，B。", "車子向右，所以選B。", "答案: b", "选b",
        "答案是“B”", "答案是《B》", "最终答案是\\boxed{B}", "并非A，应为B",
        "A 不正确，C 也不正确，D 也不正确，因此 B 正确", "したがって、答えはB。",
        "Aは間違いです。Bが正解。", "Bでしょう", "Bだ。", "Bと考えられます", "正答はB",
        "정답은 B(오른쪽)입니다.", "B라고 생각합니다", "A는 틀렸고 B가 맞습니다", "정답 B",
        "Die Antwort lautet: B.", "Antwort B", "Die richtige Option ist B, weil A nicht passt.",
        "Meiner Meinung nach B", "Die Antwort ist also B.", "Ich tippe auf B",
        "La réponse est la lettre B.", "Ce n'est pas A, c'est B.", "La bonne option est B.",
        "B est la bonne réponse", "La solution est B", "La reponse est B",
        "Je pencherais pour B", "La respuesta es la opción B) Right", "No es A, es B.",
        "B es la respuesta correcta", "Sería la B", "Así que la respuesta es B.", "Respuesta B",
        "Não é A, é B.", "B é a resposta correta", "A opção correta é a B.", "Resposta B",
        "Logo, alternativa B.", "Non è A, ma B.", "B è la risposta corretta", "La lettera B",
        "Direi B", "Risposta B", "Ответ B.", "Ответ: вариант Б", "Это не А, это В.",
        "В — правильный ответ", "Окончательный ответ: В", "Ответ: $\\boxed{B}$",
        "Вариант А неверный, вариант B верный", "الإجابة الصحيحة هي (B).",
        "أعتقد أن الإجابة هي B", "B هي الإجابة الصحيحة", "सही उत्तर (B) है।", "B सही है",
        "जवाब B", "Doğru cevap: B) Right", "Cevap: B şıkkı", "B seçeneği doğru", "Yanıt B'dir",
        "Đáp án: B. Right", "Tôi nghĩ là B", "Câu trả lời: (B)", "Lựa chọn B",
    ],
    "C": [
        "The answer is C because option B moves left.",
        "I choose C; choice B is a trap. Answer: C, since option D rests.",
        "The final answer is $\\boxed{C}$", "The answer should be C",
        "<think>x</think><answer>C", "A... no wait, C.",
        "Initially I'd say B. Correction: the answer is C.", "The answer isn't A, it's C",
        "Neither A nor B. So it must be C.",
        "Option A: wrong. Option B: wrong. Option C: correct. Option D: wrong.",
        "The options are A. Left, B. Right, C. Up, D. Down. I pick C.",
        "Option C is the best choice.", "C is the correct answer.",
        "The correct choice is (C) Up", "I'd go with C", "Let's go with C.", "Probably C.",
        "So C", "So, the answer would be: C", "**Answer: (C) Up**", "Answer - C", "Answer – C",
        "Answer=C", "Answer is C", "answer: c", "ANSWER: C", "Ans. C", "Ans: (C)",
        "\\boxed{\\textbf{C}}", "The answer is $\\text{C}$.", "{'answer': 'C'}",
        "{\"reasoning\": \"option A is out\", \"final_answer\": \"C\"}",
        "<answer>Option C</answer>", "<answer>C. Up", "<answer>(C) Up</answer>",
        "<answer>c) up</answer>", "<think>Is it A? B? I think C", "It goes up and not down.",
        "The answer is Up.", "应选择C", "答案：C", "正确答案是C。", "故答案为：C", "本题选C",
        "答案不是A，是C", "正解はC", "答え: 「C」", "정답: C", "저는 C를 선택합니다",
        "Antwort: C", "Die Antwort lautet C", "Réponse : C", "L'option C est correcte",
        "La respuesta correcta es C.", "Es la C", "A resposta correta é a C", "Letra C",
        "La risposta corretta è la C", "Ответ: С", "Правильный ответ — С.", "الجواب: C",
        "उत्तर: C", "सही विकल्प C है", "Cevap: C", "Đáp án: C", "Tôi chọn C",
        "Poprawna odpowiedź to C", "Antwoord: C", "Svar: C", "Jawabannya adalah C", "คำตอบ: C",
        "Răspuns: C", "பதில்: C", "I would choose option (C).", "Selected option: C",
        "Result: C", "The ball goes up, therefore C.",
        "Since the ball goes up, C is the answer.", "Since it goes up, it must be C.",
        "Since it goes up, I pick (C).", "A is wrong, B is wrong, D is wrong, hence C.",
        "It's not A or B. It's C.", "not B but C", "A? No. B? No. C? Yes.",
        "This corresponds to option C.", "This matches option C",
        "The movement is upward, i.e., option C.", "answer is option c.", "c. up",
        "$$\\boxed{C}$$", "👉 **C**", "**Answer**\n\nC",
        "<think>Let me see. A is out. The answer is C.</think>",
        "<answer>A</answer>\n<answer>C</answer>", "<answer>I think the answer is C.</answer>",
        "<answer>答案是C</answer>", "{\"Answer\": \"C. Up\"}", "{\"selected_option\": \"C\"}",
        "应该是C", "我认为是C。", "我认为答案是C", "答案：(C)", "选项C", "综上所述，选C。",
        "不是A也不是B，是C", "C对，其他错", "正しい答えはCです。", "Cだと思います",
        "Cを選択します", "選択肢C", "정답은 C이다.", "정답은 (C)입니다", "Die Lösung ist C",
        "Ich denke, es ist C.", "Die Antwort ist nicht A, sondern C.",
        "La réponse est l'option C.", "Donc C.", "La opción C es la correcta", "Mi respuesta: C",
        "Escojo la C", "A resposta é a letra C", "Alternativa C", "Acho que é C", "È la C",
        "Ответ: вариант С", "Думаю, это C", "Ответ С, а не А", "Выбираю вариант С.",
        "الجواب هو C", "उत्तर C है", "Doğru yanıt C", "Đáp án chính xác là C", "Phương án C",
        "Saya memilih C", "Het juiste antwoord is C", "Riktig svar er C", "Správná odpověď je C",
        "Η σωστή απάντηση είναι C", "சரியான பதில் C", "Jibu: C",
        "Looking at the frames, the cube starts at the bottom and ends at the top. This "
        "indicates upward motion.\n\nTherefore, the correct option is:\n\n**C. Up**",
        "Let's analyze each option:\n\nA. Left - incorrect\nB. Right - incorrect\nC. Up "
        "- correct\nD. Down - incorrect",
        "My initial answer was A, but after looking again, the answer is C.",
        "The most plausible option is C", "The correct answer to the question is C.",
        "The letter is C", "It has to be C.", "The answer has to be C.", "This is option C.",
        "Answer option C", "The correct answer is not A, B, or D. It is C.",
        "I doubt it's A. C.", "Maybe C?", "A or C, most likely C", "A or C, but I'd say C",
        "C (not D)", "C, definitely not D", "I meant C", "Answer: A. Sorry, I meant C.",
        "Old answer: A. New answer: C", "Don't pick A, pick C.",
        "我选择选项C，因为物体向上移动。", "首先排除A。然后比较B和C，最终选择C。", "正解是C",
        "正確答案是C", "選項C", "除了C都不对，选C", "答えはC（上）です。",
        "正解はAではなく、Cです。", "答えはＣ", "제 답은 C입니다.", "답안: C",
        "C를 고르겠습니다", "Ich entscheide mich für C.", "Es muss C sein.",
        "A ist nicht richtig. C ist die richtige Antwort.", "Korrekt ist C.", "Buchstabe C",
        "Die Antwort ist (C) Up.", "Je choisis la réponse C", "Je pense que la réponse est C",
        "Il s'agit de l'option C", "Réponse finale : C", "La correcta es C", "Mi elección es C",
        "Seleccionaría la opción C", "Resposta final: C", "Eu escolheria C",
        "La risposta finale è C", "Rispondo C", "Мой ответ — C", "Правильно — C",
        "Следовательно, ответ С.", "Буква С", "الإجابة النهائية: C", "الحل هو C",
        "मुझे लगता है कि उत्तर C है", "Cevap C'dir.", "C seçeneğini seçiyorum",
        "Đáp án là C vì vật đi lên",
    ],
    "D": [
        "I first thought A, but on reflection the answer is D.",
        "A is incorrect. B is incorrect. C is incorrect. D is correct.",
        "Eliminating A and C, the answer is D.",
        "A. Left\nB. Right\nC. Up\nD. Down\n\nAnswer: D", "Option D seems correct",
        "(D) is correct.", "I would go with option D.", "It's D", "It’s D.", "I select D",
        "Clearly D.", "Hence the correct option is D", "The answer is\n**D**",
        "\\(\\boxed{D}\\)", "```json\n{\"answer\": \"D\"}\n```",
        "<answer>The answer is D</answer>",
        "<think>The object moves. Option A says left. Option C says up. So the answer is D",
        "answer: down", "答案为 D", "因此选择D。", "所以答案是（D）", "排除A、B、C，选D",
        "正解はDです", "답은 D입니다", "Die richtige Antwort ist D.",
        "La bonne réponse est la D.", "Respuesta: D", "Resposta: D", "Risposta: D", "Ответ — D",
        "الإجابة الصحيحة هي D", "उत्तर है D", "Doğru cevap D'dir.", "Câu trả lời đúng là D",
        "After watching, the correct answer would be option D, as the ball falls down.",
        "Selection: D", "The answer is definitely not A; it is D.", "Not B. Not C. D.",
        "Only option D is consistent with the video.", "Option D matches what we see.",
        "D fits best.", "Answer: (d) Down", "d) Down",
        "The final answer is: $\\boxed{\\text{D. Down}}$",
        "<think>...<answer>A</answer> hmm no</think><answer>D</answer>",
        "<answer>Answer: D. Down</answer>", "{\"explanation\": \"A moves\", \"answer\": \"D\"}",
        "{\"correct_answer\": \"D\"}", "答案应为D", "答案: 选项D", "A选项不对，应选D", "D项正确",
        "よって、正解はDである。", "따라서 정답은 D입니다", "선택: D", "Meine Antwort: D",
        "Die korrekte Option ist D", "Ma réponse est D", "La respuesta correcta es la opción D.",
        "Portanto, a resposta correta é D.", "La risposta giusta è la D", "Вариант D",
        "Ответ: D. Вниз", "إجابتي هي D", "मेरा उत्तर D है", "Doğru seçenek D", "Vậy chọn D",
        "I was going to say A, but it's actually D.",
        "The answer that best describes the motion is D.", "Letter: D", "Going with D",
        "The answer must be (D) Down", "None of A, B, C are right; D.", "I guess D",
        "First answer: A. Final answer: D.", "Car A overtakes car B, so the answer is D.",
        "应当选择 D 选项", "D 选项正确", "我觉得是D", "答案不是A而是D", "私の答えはDです。",
        "보기 D", "Somit ist D korrekt.", "Ma réponse finale : D", "Respuesta final: D",
        "A letra correta é D", "La soluzione è D", "Верно: D", "Я думаю, что ответ D",
        "الجواب الصحيح هو D", "अंतिम उत्तर: D", "Sonuç olarak cevap D.", "Vì vậy, đáp án là D.",
    ],
    None: [
        "not A", "It's not A.", "A is wrong.", "It can't be A.", "The answer is not A.", "A: B",
        "<answer>A or B</answer>", "<think>x</think><answer>None of the above</answer>",
        "<think>A</think><answer>D. Right</answer>", "left or right", "upward", "B. Left",
        "D. Right", "Both A and B", "A and B are correct", "A or B", "A/B", "A, B",
        "Either A or C", "The answer is A or B", "The answer is either B or C.",
        "None of the above", "None", "I don't know", "I cannot determine the answer.", "Unclear",
        "", " ", "?", "ABCD", "A B C D", "All of the above", "A car moves away", "A car turns",
        "I am not sure.", "I see a ball", "C-shaped object", "The C-shaped track", "Vitamin C",
        "Plan B", "Based on the video", "Don't know", "A ball bounces; a man waves.",
        "The answer is a car", "The answer is a matter of taste", "Answer: a car",
        "Answer: I don't know", "The answer is E", "Z", "The answer is unclear", "E. Other",
        "A's motion is unclear", "Camera A and camera B differ.", "Point A is near",
        "The answer depends on A", "Because", "Definitely", "It is a dog", "Definitely a car",
        "So a car moves", "I choose a car", "I'd go with a guess", "不是A", "无法确定",
        "A和B都对", "The car moves from left to right.",
        "Right. The car moves from left to right", "I'm torn between A and B.",
        "It could be A or C.", "Could be A, could be B.", "Answer A is incorrect.", "a ball",
        "<answer>I am not sure</answer>", "<answer>A and B</answer>", "<answer>E</answer>", "I",
        "I am", "Answer: F", "D-day is near", "Type A blood", "Grade B movie", "He got an A.",
        "A-frame", "B-roll footage", "C'mon", "A's", "D.C. is a city", "U.S.A.", "e.g. a car",
        "a) or b)", "The options are A, B, C and D.",
        "The options are A. Left, B. Right, C. Up, D. Down.",
        "A. Left\nB. Right\nC. Up\nD. Down", "Either B or D is the answer.", "Neither A nor B",
        "A and B are both wrong", "Two answers: A and C",
        "The answer could be A or B, hard to say.", "All of A, B and C",
        "There is no correct answer.", "No answer", "The answer is not given", "Cannot answer.",
        "The answer is A, B", "Answer: A, C", "Answer: A & B", "Answer: AB", "Answer: none",
        "Answer:", "The answer is", "As an AI I cannot see videos.", "A dog. A cat. A bird.",
        "A moving car", "A Toyota moves", "It is A Toyota", "A 或 B", "答案是A或B", "答案不是A",
        "答えはAではありません", "الإجابة: ب", "The answer is not A, B or C.", "It isn't B",
        "I don't think it's A.", "It's a tie between A and C", "Probably A or B", "C > B",
        "A vs B", "Object A moves toward B.", "From A to B.",
        "The car goes from point A to point B", "Frame D shows nothing",
        "I see A and B in the picture", "Team A wins", "It is a B-movie", "An A grade",
        "Group C.", "My name is B.", "I am A", "The car is A", "Hello", "N/A", "n/a", "TBD",
        "...", "\n\n", "<think></think>", "<answer></answer>", "</answer>", "null",
        "I can't answer that.", "The question is unclear. I cannot choose.",
        "I cannot choose between A and B", "I can't choose A.", "I won't pick B.",
        "Do not choose A", "B是错误的", "可能是A或者C", "不选B", "AまたはB", "A 또는 B",
        "정답은 A가 아닙니다", "A oder B", "Weder A noch B", "Die Antwort ist nicht A.",
        "La réponse n'est pas A.", "A ou B", "A o B", "Ni A ni B", "La respuesta no es A.",
        "A resposta não é A", "La risposta non è A", "A o C", "Ответ не А", "А или В",
        "الإجابة ليست A", "A أو B", "उत्तर A नहीं है", "A या B", "A veya B",
        "Doğru cevap A değil", "A hoặc B", "Không phải A", "Đáp án không phải là A",
    ],
})
LANGUAGES = (("Left", "Right", "Up", "Down"), {
    "B": [
        "Is B correct? Yes.", "คำตอบคือ B ไม่ใช่ A", "Το σωστό είναι το B", "Cavab B-dir",
        "Oikea vaihtoehto on B", "Oikea vastaus on B.",
        "B on oikea vastaus", "Vastaukseni on B.", "Vastaus ei ole A vaan B.",
        "Ei, vastaus on B", "Jawapan yang betul ialah B", "Jawapan ialah B",
        "Jawapannya ialah B.", "Jawapan saya: B", "Jawapan bukan A, sebaliknya B.",
        "Správna odpoveď je B", "Správna odpoveď je možnosť B.", "Odpoveď: B",
        "Odpoveď nie je A, ale B.", "B je správna odpoveď", "Správná je možnost B",
        "Верният отговор е B", "Правилният отговор е В.", "Отговорът е B.", "Отговор: Б",
        "Верният отговор не е A, а B.", "B е верният отговор", "Točan odgovor je B",
        "Ispravan odgovor je B.", "Tačan odgovor je opcija B", "Odgovor je pod B",
        "Odgovor nije A, nego B", "B je točan odgovor.", "A nije točan odgovor, B je.",
        "Тачан одговор је B", "Тачан одговор је Б.", "Одговор: B", "Одговор није A, него B",
        "Точниот одговор е B", "Точен одговор е Б", "Teisingas atsakymas yra B",
        "Teisingas atsakymas: B", "Atsakymas – B", "B yra teisingas atsakymas.",
        "Õige vastus on B", "Õige variant on B", "Vastus ei ole A, vaid B", "Vastus: B",
        "Pareizā atbilde ir B", "Atbilde ir B.", "Atbilde nav A, bet B", "B ir pareizā atbilde",
        "Erantzun zuzena B da", "Erantzuna B da.", "Erantzuna ez da A, baizik eta B.",
        "Nire erantzuna: B", "Yr ateb yw B", "Yr ateb cywir yw B.", "B yw'r ateb cywir",
        "Nid A yw'r ateb cywir, ond B", "Jibu ni B", "Jibu sahihi ni B.", "Jibu langu ni B",
        "Jibu si A bali B", "Chaguo sahihi ni B", "Ang sagot ko ay B", "Ang sagot ay B.",
        "Ang tamang sagot ay B", "Hindi A ang tamang sagot, kundi B.", "คำตอบที่ถูกคือ B",
        "คำตอบที่ถูกต้องคือข้อ B", "คำตอบของฉันคือ B", "คำตอบไม่ใช่ A แต่เป็น B",
        "ข้อ B ถูกต้อง", "A ไม่ถูก B ถูกต้อง", "সঠিক উত্তর হল B", "সঠিক উত্তর হলো B।",
        "উত্তরটি B", "সঠিক উত্তর A নয়, B", "আমার উত্তর: B", "صحیح جواب B ہے", "درست جواب B ہے۔",
        "جواب: B", "صحیح جواب A نہیں بلکہ B ہے", "پاسخ درست B است", "گزینه B درست است",
        "پاسخ صحیح گزینه B است.", "جواب B است", "پاسخ A نیست، بلکه B است",
        "La resposta correcta és B", "La resposta és la B.", "La resposta no és A, sinó B",
        "B és la resposta correcta", "A resposta correcta é B", "A resposta non é A, senón B",
        "Pravilni odgovor je B", "Pravilen odgovor je B.", "Odgovor ni A, ampak B.",
        "Pravilen odgovor ni A. Pravilen odgovor je B.", "სწორი პასუხია B",
        "სწორი პასუხი არის B", "პასუხი: B", "სწორი პასუხი არ არის A, არამედ B",
        "Ճիշտ պատասխանը B է", "Ճիշտ պատասխանն է B", "Պատասխան՝ B", "Ճիշտ պատասխանը A չէ, այլ B",
        "התשובה הנכונה היא B", "תשובה: B", "התשובה היא לא A אלא B", "תשובה נכונה: B",
        "Rétta svarið er B", "Svarið er B", "Svarið er ekki A heldur B",
        "Det riktige svaret er B", "Det rigtige svar er B", "Svaret er ikke A. Det er B.",
        "Rätt alternativ är B", "Is é B an freagra ceart", "Is é an freagra ceart ná B",
        "Përgjigja e saktë është B", "It-tweġiba t-tajba hija B", "Răspunsul corect este B",
        "Răspunsul este B", "Răspunsul nu este A, ci B.", "Varianta corectă este B",
        "A helyes válasz B", "A válasz nem A, hanem B.", "A helyes válasz a B.",
        "Дұрыс жауап – B", "Дұрыс жауап B", "Жауабы: B", "To‘g‘ri javob: B", "To'g'ri javob B",
        "Düzgün cavab B", "Düzgün cavab: B", "Зөв хариулт нь B", "Правільны адказ: B",
        "Правильна відповідь — B", "Відповідь не A, а B", "சரியான பதில் B", "சரியான விடை B",
        "సరైన సమాధానం B", "సరైన సమాధానం A కాదు, B", "ಸರಿಯಾದ ಉತ್ತರ B", "ശരിയായ ഉത്തരം B ആണ്",
        "बरोबर उत्तर B आहे", "योग्य उत्तर B आहे", "સાચો જવાબ B છે", "ਸਹੀ ਜਵਾਬ B ਹੈ",
        "सही उत्तर B हो", "නිවැරදි පිළිතුර B", "အဖြေမှန်မှာ B ဖြစ်သည်", "ចម្លើយត្រឹមត្រូវគឺ B",
        "ຄຳຕອບທີ່ຖືກຕ້ອງແມ່ນ B", "ትክክለኛው መልስ B ነው", "Jawaban sing bener yaiku B",
        "Ang husto nga tubag mao ang B", "Amsar ita ce B", "Ìdáhùn tó tọ́ ni B",
        "Jawaabtu waa B", "Repons lan se B", "La ĝusta respondo estas B", "Impendulo ithi B",
        "Die korrekte antwoord is B", "Prawidłowa odpowiedź to opcja B",
        "Odpowiedź to nie A, lecz B",
    ],
    "D": [
        "Not B, D is.", "Is B correct? No. D is.", "Is it B? No, D is.", "B is not correct, D is.",
        "B is not correct, D is", "Is the answer B? No. It's D.", "Could it be A or B? No. D.",
        "A is wrong. D is.", "Not B. D is.", "Ist B richtig? Nein. D ist richtig.",
        "Vaihtoehto B ei ole oikea. Oikea on D.", "Jawapan B salah. Jawapan betul ialah D.",
        "Odgovor B nije točan, D je.", "คำตอบ B ผิด คำตอบคือ D", "B не е верният отговор, D е.",
        "Vaihtoehto B on houkutteleva, mutta oikea vastaus on D.",
        "Opcija B je kriva. Točan odgovor je D.", "Pravilen odgovor ni B, ampak D.",
        "Jibu si B. Jibu ni D.",
    ],
    None: [
        "Vastaus ei ole B", "Točan odgovor nije B", "Verified: B?", "Верният отговор не е B",
        "Teisingas atsakymas nėra B.", "Jibu si B", "Hindi B ang sagot", "คำตอบไม่ใช่ B",
        "সঠিক উত্তর B নয়", "صحیح جواب B نہیں ہے", "پاسخ B نیست", "Răspunsul nu este B",
        "A válasz nem B", "סליחה, התשובה היא לא B", "Vastaus on A tai B", "Odgovor je A ili B",
        "Is B correct? No.", "Odgovor ni B.", "Nid B yw'r ateb", "Odpoveď nie je B",
        "I know what B is.", "The answer depends on B", "Person A on upper side",
        "Ճիշտ պատասխանը B չէ",
    ],
})
TEN = (tuple(f"{n} meters" for n in range(1, 11)), {
    "B": [
        "2 meters",
    ],
    "C": [
        "about 3 meters", "It is 3 meters, not 4 meters.",
    ],
    "E": [
        "The answer is 5 meters.",
    ],
    "G": [
        "I think the answer is G", "I believe it is 7 meters",
    ],
    "H": [
        "<answer>H. 8 meters</answer>",
    ],
    "I": [
        "I. 9 meters", "(I)", "I", "The answer is I.", "Answer: I", "I would say I.",
    ],
    "J": [
        "J", "The answer is J.", "10 meters", "答案是J", "option j",
    ],
    None: [
        "I think so", "3", "K",
    ],
})
NUMBERS = (("1", "2", "3", "4"), {
    "B": [
        "2", "B", "The answer is 2.", "The answer is B", "B. 2",
    ],
    "C": [
        "There are 3 cars.", "\\boxed{3}", "答案是3",
    ],
    "D": [
        "<answer>4</answer>",
    ],
    None: [
        "12", "2.5", "2 or 3",
    ],
})
SHUFFLED_LETTERS = (("B", "A", "D", "C"), {
    "A": [
        "A", "The answer is A", "A. B", "答案是A",
    ],
    "B": [
        "B", "B.",
    ],
    "C": [
        "<answer>C</answer>", "(c)",
    ],
    "D": [
        "option D", "Answer: D. C",
    ],
})
YES_NO = (("Yes", "No"), {
    "A": [
        "Yes", "Yes, it does.", "A", "A. Yes, it does", "No, the answer is A.",
    ],
    "B": [
        "No", "no.", "No, it does not move.", "The answer is no", "B. No",
    ],
    None: [
        "C",
    ],
})
MOVING = (("Moving Left", "Moving Left-Up", "Static", "Moving Right"), {
    "A": [
        "moving   left", "It's moving left", "The object is moving left, so A",
    ],
    "B": [
        "It is moving left-up.", "First the answer is A, no, the answer is B",
    ],
    "C": [
        "Static", "The object is static here.",
    ],
    "D": [
        "D. Moving right",
    ],
    None: [
        "Moving Left-Up or Static", "Moving Up", "A. Moving Left-Up",
    ],
})
CHINESE = (("向左", "向右", "上", "下"), {
    "B": [
        "向右", "物体向右移动", "不是向左，是向右", "B. 向右", "B、向右", "答案是B、向右。",
    ],
    "C": [
        "答案是上",
    ],
    "D": [
        "下",
    ],
})
TWICE = (("Left", "Right", "Left", "Down"), {
    "A": [
        "The answer is A. Left",
    ],
    "B": [
        "Right",
    ],
    "C": [
        "C", "C. Left",
    ],
    None: [
        "Left", "It moves left.",
    ],
})
TRUE_FALSE = (("True", "False"), {
    "A": [
        "True", "The answer is True.", "(A) True",
    ],
    "B": [
        "False", "B. False", "The statement is false.", "The answer is B. False",
        "A. True\nB. False\nAnswer: B",
    ],
})
POINTS = (("Point A", "Point B", "Point C", "Point D"), {
    "A": [
        "Point A", "A. Point A",
    ],
    "B": [
        "The answer is B.", "Point B, not point C",
    ],
    "C": [
        "Point C is the nearest.",
    ],
    "D": [
        "The answer is Point D.",
    ],
    None: [
        "Point A is far and point B is far",
    ],
})
BOTH_OR_NONE = (("Left", "Right", "Both", "None of the above"), {
    "A": [
        "It moves left.",
    ],
    "C": [
        "Both", "Both.", "C. Both",
    ],
    "D": [
        "None of the above", "D. None of the above", "The answer is none of the above.",
    ],
})
METRES = (("2 meters", "4 meters", "0.5 m", "12"), {
    "A": [
        "2 meters", "Answer: 2 meters",
    ],
    "B": [
        "It is 4 meters away", "<answer>4 meters</answer>",
    ],
    "C": [
        "0.5 m",
    ],
    "D": [
        "The distance is 12 meters", "12",
    ],
    None: [
        "4", "10.5 m",
    ],
})
SENTENCES = (
    ("The car moves left and then stops", "The car moves right", "The car rests", "No car"), {
    "A": [
        "the car moves left and then stops.",
    ],
    "B": [
        "The car moves right", "I believe the car moves right, thus B.",
    ],
    "C": [
        "The answer is: the car rests", "C. The car rests",
    ],
    "D": [
        "There is no car.",
    ],
})


@pytest.mark.parametrize("options, answers", [
    FOUR, LANGUAGES, TEN, NUMBERS, SHUFFLED_LETTERS, YES_NO, MOVING, CHINESE, TWICE, TRUE_FALSE,
    POINTS, BOTH_OR_NONE, METRES, SENTENCES,
], ids=[
    "four", "languages", "ten", "numbers", "shuffled_letters", "yes_no", "moving", "chinese",
    "twice", "true_false", "points", "both_or_none", "metres", "sentences",
])
def test_what_a_patient_reader_takes(options, answers):
    found = {text: lenient_answer(text, options) for texts in answers.values() for text in texts}
    wanted = {text: letter for letter, texts in answers.items() for text in texts}
    assert {text: (found[text], letter) for text, letter in wanted.items()
            if found[text] != letter} == {}


def test_there_are_options_to_answer():
    assert lenient_answer("The answer is A.", ()) is None


@pytest.mark.parametrize("options, text, letter", [
    (["-45°", "45°", "90°", "0°"], "The answer is -45°.", "A"),
    (["-45°", "45°", "90°", "0°"], "It turns by 45°.", "B"),
    (["> 5 m", "< 5 m"], "The answer is < 5 m.", "B"), (["5%", "$5"], "I think it is $5.", "B"),
    (["1", "-1"], "**-1**", "B"), (["1 m/s", "-1 m/s"], "The answer is -1 m/s", "B"),
    (["C", "C++", "C#"], "The answer is C#.", "C"), (["?", "!"], "The answer is !", "B"),
    (["→", "←"], "The answer is ←", "B"),
])
def test_signs_tell_options_apart(options, text, letter):
    assert lenient_answer(text, options) == letter


@pytest.mark.parametrize("text, letter", [
    ("D\n\n(A is wrong)", "D"), ("B (C is not correct because it moves)", "B"),
    ("Answer: B (A is wrong)", "B"), ("A (B)", None),
])
def test_a_remark_in_brackets_is_no_second_answer(text, letter):
    assert lenient_answer(text, ["Left", "Right", "Up", "Down"]) == letter
