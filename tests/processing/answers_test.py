"""Reading answers: the strict parser of rewards and scores, the lenient one, the format."""

import pytest

from fourd4d.processing.answers import lenient_answer, parse_answer, strip_latents, well_formed

OPTIONS = ("Moving Left", "Moving Left-Up", "Static", "Moving Right")
BLOCK = "<|latent_start|><|latent_pad|><|latent_pad|><|latent_end|>"


def response(answer: str, think: str = "It moves.") -> str:
    return f"<think>{think}</think>\n<answer>{answer}</answer>"


@pytest.mark.parametrize("answer, letter", [
    ("B", "B"), ("B.", "B"), (" B \n", "B"), ("(B)", "B"), ("B)", "B"), ("B:", "B"), ("(B).", "B"),
    ("B. Moving Left-Up", "B"), ("B: Moving Left-Up", "B"), ("B Moving Left-Up", "B"),
    ("(B) Moving Left-Up", "B"), ("B. it goes left and up", None),
    ("B. Moving Left-Up, as it rises", "B"),
    ("B. moving left-up.", "B"), ("D. Up", None), ("D. Moving", None), ("J", None),
    ("B.\nMoving Left-Up", "B"),
    ("Moving Left", "A"), ("Moving Left-Up", "B"), (" Static ", "C"),
    ("Based on the video it is A", None), ("A red cube", None), ("Both", None), ("b", None),
    ("E", None), ("E. Moving Left", None), ("B. Moving Left", None), ("A. Static", None),
    ("moving left", None), ("Moving", None), ("Moving Left.", None), ("", None), ("AB", None),
    ("A or B", None), ("B, C", None), ("I think B", None), ("A.B", None), ("A/B", None),
])
def test_strict(answer, letter):
    assert parse_answer(response(answer), OPTIONS) == letter


@pytest.mark.parametrize("text, letter", [
    ("<think>a</think><answer>A</answer><answer>D. Moving Right</answer>", "D"),
    ("<think><answer>A</answer></think><answer>C</answer>", "C"),
    ("<think><answer>A</answer></think>", None),
    ("<answer>A</answer>", None),
    ("<think>a</think>A", None),
    ("<think>a</think><answer>A", None),
    ("<think>a</think><answer><answer>A</answer>", "A"),
    ("<answer>A</answer><think>b</think>", None),
    (f"<think>a {BLOCK} b</think><answer>{BLOCK}C</answer>", "C"),
    ("B", None), ("", None),
])
def test_where_the_answer_stands(text, letter):
    assert parse_answer(text, OPTIONS) == letter


def test_free_text_tasks_have_no_letter():
    assert parse_answer(response("A"), ()) is None
    assert lenient_answer("A", ()) is None


@pytest.mark.parametrize("text, letter", [
    (response("B"), "B"), ("<answer>B</answer>", "B"), ("B", "B"), ("(C)", "C"), ("D.", "D"),
    ("B. Moving Left-Up, because it does.", "B"), ("The answer is C.", "C"),
    ("I would say the answer is: (D)", "D"), ("Final answer: B", "B"), ("Option C", "C"),
    ("The correct option is **A**", "A"), ("<answer>the answer is B</answer>", "B"),
    ("It is moving left-up.", "B"), ("Static", "C"), ("The object is static here.", "C"),
    ("First the answer is A, no, the answer is B", "B"),
    ("Moving Left-Up or Static", None), ("Based on the video, hard to say.", None),
    ("A red cube moves.", None), ("The answer is unclear", None), ("The answer isn't A's", None),
    ("The answer is F", None), ("", None), ("nothing", None), ("Definitely", None),
])
def test_lenient(text, letter):
    assert lenient_answer(text, OPTIONS) == letter


@pytest.mark.parametrize("text, good", [
    (response("B"), True), (response("B. Moving Left-Up", f"See {BLOCK} and {BLOCK}."), True),
    ("<think>a</think><answer>B</answer>", True),
    ("  <think>a</think> \n <answer>B</answer>\n", True),
    ("<think></think><answer>B</answer>", False), ("<think>a</think><answer> </answer>", False),
    (f"<think>{BLOCK}</think><answer>B</answer>", False),
    ("<think>a</think>", False), ("<answer>B</answer>", False),
    ("<think>a<answer>B</answer>", False),
    ("x<think>a</think><answer>B</answer>", False), ("<think>a</think><answer>B</answer>x", False),
    ("<think>a</think>so<answer>B</answer>", False),
    ("<think>a</think><think>b</think><answer>B</answer>", False),
    ("<think>a<think>b</think><answer>B</answer>", False),
    ("<think>a</think><answer>B</answer><answer>C</answer>", False),
    ("<think>a</think><answer><answer>B</answer>", False),
    ("<think>a <|latent_start|> b</think><answer>B</answer>", False),
    ("<think>a<|im_end|></think><answer>B</answer>", False), ("", False),
])
def test_format(text, good):
    assert well_formed(text) is good


def test_latents_are_stripped_as_whole_blocks():
    assert strip_latents(f"a{BLOCK}b{BLOCK}{BLOCK}c") == "abc"
    assert strip_latents("a<|latent_start|>b") == "a<|latent_start|>b"


FOUR = ("Left", "Right", "Up", "Down")


@pytest.mark.parametrize("text, letter", [
    # Conclusions beside other letters.
    ("The answer is C because option B moves left.", "C"), ("The answer is B, not option A.", "B"),
    ("Answer: B. Explanation: option A would go left.", "B"),
    ("A. is wrong. The answer is B.", "B"),
    ("I choose C; choice B is a trap. Answer: C, since option D rests.", "C"),
    ("The answer is A. Wait, no, it should be B.", "B"),
    ("Option A is wrong, option B is correct.", "B"), ("B is correct; A is not correct.", "B"),
    ("It cannot be A. It must be D.", "D"), ("The answer is not A but C.", "C"),
    ("A is incorrect and B is incorrect, so C.", "C"), ("Not A, not B. Therefore, D.", "D"),
    ("The answer isn't A. The correct answer is C.", "C"),
    ("The right choice would be (D).", "D"), ("The correct option is most likely C.", "C"),
    ("I would go with B here.", "B"), ("I'd pick D.", "D"), ("We select option A.", "A"),
    ("My final answer is therefore D", "D"), ("So the answer must be A.", "A"),
    ("The answer should be C", "C"), ("The answer seems to be B.", "B"),
    ("Option A can be ruled out. Option C remains.", "C"),
    ("Rather than option A, option B", "B"),
    ("First I thought A. But the cube rises.\n\nAnswer: C", "C"),
    ("The cube rises.\n\nC", "C"), ("The cube falls.\n\n**D.**", "D"),
    ("Hence (B).", "B"), ("=> C", "C"), ("It's D", "D"), ("A, because it goes left.", "A"),
    ("B - Right", "B"), ("(B) Right", "B"), ("[B] Right", "B"), ("B) Right", "B"),
    ("B: it goes right", "B"), ("\"B\"", "B"), ("'C'", "C"), ("b.", "B"), ("(d)", "D"),
    # Markup.
    ("<answer>b</answer>", "B"), ("<answer>**B**</answer>", "B"),
    ("<answer>\\boxed{B}</answer>", "B"), ("<answer>[B]</answer>", "B"),
    ("The final answer is $\\boxed{C}$", "C"), ("\\boxed{\\text{B}}", "B"),
    ("$$\\boxed{\\mathbf{D}}$$", "D"), ("**Answer:** B", "B"), ("### Answer\nB", "B"),
    ("**Final Answer**: **(C)**", "C"), ("`A`", "A"), ('{"answer": "B"}', "B"),
    ('{"reason": "it rises", "answer": "C"}', "C"), ("Answer = D", "D"), ("ANSWER: b", "B"),
    ("Ans: C", "C"), ("<think>x</think><answer>C", "C"), ("<think>it rises. So C", "C"),
    ("<think>A or B?</think>\nB", "B"), ("<answer>A</answer><answer>B</answer>", "B"),
    ("<think>x</think><answer>The answer is D</answer>", "D"),
    ("<think>The answer is A</think> The answer is B", "B"),
    # Other scripts and languages.
    ("答案是B", "B"), ("<think>x</think><answer>B、右</answer>", "B"),
    ("<think>x</think><answer>Ｂ</answer>", "B"), ("选B", "B"), ("选择C。", "C"), ("应选择C", "C"),
    ("正确答案是：D。", "D"), ("答案：A", "A"), ("B选项正确", "B"), ("不是A，是C。答案为C", "C"),
    ("所以选D", "D"), ("因此，答案应该是B。", "B"), ("A错误，B正确", "B"), ("故选C", "C"),
    ("答えはBです。", "B"), ("正解はC", "C"), ("Bです", "B"), ("Bが正しい", "B"), ("答え：D", "D"),
    ("정답은 B입니다", "B"), ("답: C", "C"), ("정답: D", "D"), ("B번입니다", "B"),
    ("Die Antwort ist B.", "B"), ("Antwort: C", "C"), ("Die richtige Antwort lautet D", "D"),
    ("Ich wähle A.", "A"), ("B ist richtig, A ist falsch.", "B"),
    ("La réponse est B.", "B"), ("Réponse : C", "C"), ("La bonne réponse est la D", "D"),
    ("Je choisis A", "A"), ("La respuesta es la B.", "B"), ("Respuesta correcta: C", "C"),
    ("La opción correcta es D", "D"), ("Elijo la A.", "A"), ("A resposta é B", "B"),
    ("Resposta: C", "C"), ("A alternativa correta é a letra D", "D"), ("La risposta è B", "B"),
    ("La risposta corretta è la C.", "C"), ("Ответ: B", "B"), ("Ответ: В", "B"), ("Ответ: Б", "B"),
    ("Правильный ответ — C", "C"), ("الإجابة هي B", "B"), ("الجواب: C", "C"), ("उत्तर B है", "B"),
    ("सही उत्तर: C", "C"), ("Cevap: B", "B"), ("Doğru cevap C", "C"), ("Đáp án đúng là B", "B"),
    ("Đáp án: D", "D"), ("Odpowiedź: B", "B"), ("Het antwoord is C", "C"), ("Svaret är D", "D"),
    ("Jawabannya adalah B", "B"), ("คำตอบคือ B", "B"), ("Η απάντηση είναι C", "C"),
    # Option texts.
    ("The cube goes right.", "B"), ("The answer is Up, not Down.", "C"), ("It moves down", "D"),
    ("RIGHT", "B"), ("Right.", "B"), ("the answer: left", "A"),
    # Nothing, or several.
    ("A car drives by.", None), ("I cannot tell.", None), ("Based on the video", None),
    ("A or B", None), ("The answer is A or B.", None), ("Both A and B are correct.", None),
    ("Left or right", None), ("None of the above", None), ("Not A.", None), ("", None), ("?", None),
    ("The answer is E", None), ("C-shaped things", None), ("Vitamin D helps", None),
    ("The answer is unclear.", None), ("A and B", None), ("The answer is a mystery", None),
])
def test_what_a_patient_reader_takes(text, letter):
    assert lenient_answer(text, FOUR) == letter


@pytest.mark.parametrize("options", [("B", "A", "D", "C"), ("C", "D", "A", "B")])
@pytest.mark.parametrize("letter", "ABCD")
def test_a_bare_letter_is_the_options_letter_whatever_the_options_say(options, letter):
    for said in (letter, f"{letter}.", f"({letter})"):
        assert parse_answer(response(said), options) == letter
        assert lenient_answer(said, options) == letter
    text = f"{letter}. {options['ABCD'.index(letter)]}"
    assert parse_answer(response(text), options) == letter


def test_ten_options_and_numbers():
    ten = [f"{n} metres" for n in range(10)]
    assert parse_answer(response("J"), ten) == lenient_answer("The answer is J.", ten) == "J"
    assert parse_answer(response("I. 8 metres"), ten) == "I"
    assert parse_answer(response("8 metres"), ten) == lenient_answer("about 8 metres", ten) == "I"
    assert lenient_answer("I think so", ten) is None
    assert lenient_answer("3", ("1", "2", "3", "4")) == "C"
