"""Quizzes: each choice opens to say why it is right or wrong.

Written as plain HTML that needs no widget and no kernel, so that it works offline, in a stored notebook and by keyboard;
`answer` is the same as a function.
"""

from __future__ import annotations

from dataclasses import dataclass

from course_utils.errors import CourseError
from course_utils.style import escaped


@dataclass(frozen=True)
class Question:
    """One question; choices are (text, whether right, explanation)."""

    text: str
    choices: tuple[tuple[str, bool, str], ...]


QUIZZES: dict[str, tuple[Question, ...]] = {
    "01": (
        Question(
            "A support model answers in the wrong tone, and it does not know the return rules that have applied since March. What do you try?",
            (
                ("Fine-tuning for both: one training run closes both gaps.", False, "It can teach the tone. The rules would be right until they change again, and no answer could name its source."),
                ("RAG for both: put well-written answers into the index next to the rules.", False, "Good answers in the prompt are examples, and they may help with the tone. But you pay for them in every request, and they bind the model no more than any other prompt."),
                ("RAG for the rules, a better prompt for the tone.", True, "The rules are missing knowledge, which has to come with the question. The tone is behaviour: ask for it first, and train only if asking does not help enough."),
                ("Training for the rules and a prompt for the tone, because rules matter more than tone.", False, "A prompt for the tone is a good first step. But rules are facts that change, and training freezes them."),
            ),
        ),
        Question(
            "You look at twenty wrong answers. In twelve the needed passage was not among those shown, in five the fact is right but written as a sentence, in three the record is wrong. Where do you begin?",
            (
                ("With the search, because it is the first link that broke in most of them.", True, "Nothing that you do to the model can help where the passage is missing. Afterwards sort again: behind some of the twelve another fault will show."),
                ("With structured output, because a schema costs nothing and is done in an hour.", False, "Do it, by all means: it is quick. But it repairs five of twenty, and twelve answers lack their passage however they are written."),
                ("With fine-tuning, because it is the only tool that works on all of them at once.", False, "Training does not bring a passage into the prompt. At best it would repair the three."),
            ),
        ),
        Question(
            "A prompt with a schema always gives valid records, but the topic is wrong in a third of them. What would constrained decoding with a stricter schema change?",
            (
                ("It would forbid the wrong topics, because a schema lists every topic that exists in the shop.", False, "Each topic is wrong for one message and right for another, so the schema has to allow them all."),
                ("It would give the model more room to think before it writes the topic.", False, "The schema only takes tokens away. Room to think is a longer answer, not a stricter grammar."),
                ("Nothing: a grammar knows which topics exist, not which one fits the message.", True, "The form is solved. What is left is judgement: examples of each topic in the prompt, and then fine-tuning."),
            ),
        ),
        Question(
            "On the same 50 questions system A gets 46 right and B 43. May you report that A is better?",
            (
                ("Yes: 92 % against 86 %.", False, "These are shares of these 50 questions. With 50 others the order could well be the other one."),
                ("Not yet; look at the interval of the difference, question by question.", True, "Only the questions on which the two differ can tell. Even if A wins three and loses none, chance alone does that once in eight times."),
                ("No: their intervals overlap, and that shows that the two systems are equally good.", False, "Overlap does not show that they are equal, only that these data cannot tell. The two intervals also ignore that both systems had the same questions."),
                ("Yes, if B is run a second time and gets 43 once more.", False, "That shows that B is steady on these questions. What is uncertain is which questions were drawn."),
            ),
        ),
        Question(
            "Your handbook has 6,000 tokens and changes once a month. Requests come every few seconds. Why might you leave out the index?",
            (
                ("A model that has read the handbook once remembers it in the following requests.", False, "A model remembers nothing between requests. The host remembers what it computed for the same beginning, which makes the prompt cheaper and the model no wiser."),
                ("The whole handbook in a cached prompt can cost about as much as one passage, and cannot miss.", True, "The cache stays warm at this rate, the text fits, and no search can fail. At ten times the length the sum looks different: compute it."),
                ("Fine-tuning on 6,000 tokens is cheap.", False, "It is, and next month the model gives the old rules without a sign of doubt."),
            ),
        ),
        Question(
            "A model was fine-tuned to answer from passages, and a price in the catalogue changes. What does it take until answers are right again?",
            (
                ("One edited passage in the index.", True, "The model has learned to read, and reading lasts. It gives a price that did not exist when it was trained."),
                ("A new training run with the new price, and a new test of everything else.", False, "That is what it takes if the model has learned the price by heart. This one was trained to take it from the passage."),
                ("A lower temperature, so that the model stays closer to the text in front of it.", False, "The temperature decides how much chance there is in the choice of tokens. It does not bring the new price into the prompt."),
                ("Nothing.", False, "The index still holds the old passage, and the model reads what it is given."),
            ),
        ),
        Question(
            "Your prompt reaches 88 % of the goal. The team wants to fine-tune for the rest. What do you answer?",
            (
                ("No: above 85 % fine-tuning never pays.", False, "The limit is a rule of thumb. With very many requests, or with expensive errors, a few points can pay."),
                ("Yes, because the model is then independent of its prompt, and prompts cost tokens on every call.", False, "Most fine-tuned models still need a prompt, a short one, and it must be the one that they were trained with."),
                ("First the sum: requests a day, what one error costs, and what data and work cost.", True, "Near the goal there is little left to gain, and the work is the same as for a large gain. Look at which cases fail, too: a prompt can often fix those."),
            ),
        ),
    ),
    "02": (
        Question(
            "What is LoRA, and why does it need so much less memory than full fine-tuning?",
            (
                ("The weights are frozen; two thin matrices beside each layer are trained.", True, "Gradients and optimizer state, 12 of the 16 bytes a parameter in mixed precision, are needed only for what trains."),
                ("It stores the model's weights in fewer bits, and turns them back into numbers layer by layer.", False, "That is quantization. QLoRA combines the two."),
                ("It trains only the last few layers.", False, "That is partial fine-tuning; LoRA usually adapts every linear layer."),
                ("It needs no forward pass through the base.", False, "Forward and backward still go through the whole base: LoRA saves about a third of the arithmetic, not nine tenths."),
            ),
        ),
        Question(
            "B starts at zero. What would happen if A started at zero too?",
            (
                ("Training would be slower, but reach the same point.", False, "It would not move at all: see the common mistakes."),
                ("The model would start from random outputs.", False, "With B = 0 the update is zero whatever A is; the start is the base model either way."),
                ("Nothing would ever be learned.", True, "The gradient of A carries a factor B and that of B a factor A. With both at zero both gradients are zero for ever."),
            ),
        ),
        Question(
            "You double alpha and keep rank and learning rate. With Adam this is closest to …",
            (
                ("no change at all.", False, "The update is scaled by alpha / r in every forward pass."),
                ("doubling the rank.", False, "The rank sets what the update can express; alpha only how far a step goes."),
                ("adding dropout.", False, "Dropout makes the adapter's input noisy while training; alpha scales its output."),
                ("doubling the learning rate.", True, "At a fixed rank: Adam's step hardly depends on the gradient's size, so at first the update grows with alpha times the learning rate. Only roughly: the rate moves A and B, while alpha scales their product once."),
            ),
        ),
        Question(
            "Your customer-service and your code-review adapter share one 7B base. What do you deploy?",
            (
                ("Two merged models.", False, "Right for a single adapter under load; for two it doubles the memory, and swapping means loading 14 GB."),
                ("One base and both adapters, chosen for each request.", True, "Each adapter is a few percent of the base or less; switching takes milliseconds and reloads nothing."),
                ("One model that was trained on both data sets, one after the other.", False, "Training in turn makes it forget; and either behaviour then changes only with the other."),
            ),
        ),
        Question(
            "Validation loss has risen for three evaluations while training loss falls. What now?",
            (
                ("Stop, and go back to the adapter with the lowest validation loss.", True, "Falling training and rising validation loss is overfitting; held-out quality is what you ship. Then look for more or better data, or take fewer epochs or dropout."),
                ("Train on, since the training loss is what the optimizer works on and it still falls.", False, "It shows how well the examples are memorised, not how new ones are answered."),
                ("Raise the rank, so that the adapter has more room.", False, "More capacity lets it memorise faster."),
            ),
        ),
        Question(
            "A full fine-tune of a 7B model worked at learning rate 2e-5. Where do you start with LoRA?",
            (
                ("2e-6", False, "Ten times less instead of more."),
                ("2e-5", False, "B starts at zero and must grow from nothing; at this rate hardly anything is learned, as the figure of the rates shows."),
                ("2e-4", True, "About ten times the rate of full fine-tuning is the published rule of thumb, more for short runs and small models."),
            ),
        ),
    ),
    "03": (
        Question(
            "A layer of a QLoRA model is about to multiply. Which numbers does it multiply with?",
            (
                ("With the 4-bit codes themselves, which is where QLoRA gets its speed.", False, "A code is only the number of a value; nothing can be computed with it. In training there is no gain in speed: restoring the weights costs time."),
                ("With float32 copies of all weights, kept in memory for the whole run.", False, "Then nothing would be saved. The copy has the compute dtype, belongs to one matrix and is dropped after its product."),
                ("With a 16-bit copy of this one matrix.", True, "Storage has 4 bits, the product 16 (the compute dtype). The copy lives only that long, so it costs no more memory than the largest matrix."),
            ),
        ),
        Question(
            "LoRA on an 8B model with a batch of eight runs out of memory on a card with 80 GB. What do you try first?",
            (
                ("One example at a time, with accumulation.", True, "Eight examples at once fill the card with activations and logits. One at a time gives the same gradient, only in eight parts."),
                ("A 4-bit base, because weights are the largest part of a language model in memory.", False, "Here they are not: 4 bits save 8 GB, and the activations of eight examples take many times that."),
                ("A lower rank, because the adapter and its optimizer states are what is trained.", False, "At rank 16 they take half a gigabyte. Halving the rank would save a quarter of one."),
            ),
        ),
        Question(
            "What does double quantization store in fewer bits?",
            (
                ("The weights, which go from 4 bits to 2 in a second pass.", False, "The codes keep their 4 bits."),
                ("The scales of the blocks.", True, "A float32 scale for 64 weights is half a bit per weight. As 8-bit codes with scales of their own, they take about an eighth of a bit."),
                ("The adapter, as soon as it has been trained and is saved to disk.", False, "The adapter is not quantized at all: it is small, and it has to move in small steps."),
            ),
        ),
        Question(
            "LoRA gets 69 % and QLoRA 66 % of a field right on 100 messages, and always answering “none” gets 70 %. What follows?",
            (
                ("Nothing about LoRA and QLoRA: neither has learned this field, and three messages are within chance.", True, "A score that does not beat the constant answer says nothing. Compare losses on the right answers, message by message."),
                ("LoRA is better, though only by three points.", False, "With 100 messages the interval is about nine points to each side, and neither beats the constant answer."),
                ("Both have learned about two thirds of the field.", False, "A program without a model gets more of it right. Always look at the baseline first."),
            ),
        ),
        Question(
            "You have trained a QLoRA adapter and need one folder that any server can load. What do you do?",
            (
                ("Call merge_and_unload() on the 4-bit model and save it, since base and adapter then have the same size as before.", False, "Base plus update is rounded to sixteen values again, and a large part of what was learned is rounded away."),
                ("Copy the adapter's file into the folder of the base.", False, "A server has to be told about an adapter; a file that happens to lie there changes nothing."),
                ("Merge in 16 bits, then measure.", True, "Restore the base with dequantize(), or take the original weights, merge, and check the loss. If it must be small again, use AWQ, GPTQ or GGUF and measure once more."),
            ),
        ),
        Question(
            "Your model fits on your card in 16 bits with LoRA, with room to spare. Should you switch to QLoRA?",
            (
                ("Yes, it takes less memory at the same speed and quality.", False, "Restoring weights takes time, and a rounded base can cost a little quality."),
                ("No: you may pay in time and quality for memory that you do not need.", True, "Use LoRA when the base fits, QLoRA when it would not. The one other reason is room for longer examples."),
                ("Yes, because products in 4 bits are faster than in 16.", False, "No product is computed in 4 bits; only the storage has 4."),
            ),
        ),
    ),
    "04": (
        Question(
            "A run of plain DPO logs every step, and its first loss is 1.04. What do you check?",
            (
                ("The learning rate, which was too high.", False, "Before the first step no learning rate has acted yet. The first loss depends on policy and reference alone."),
                ("The reference: is it the model that you are training, with its SFT?", True, "If policy and reference are one model, every gain is 0 and the loss is 0.69, whatever the pairs are. Another number means that they differ: often the reference is the base before SFT."),
                ("The labels: many may be reversed.", False, "Labels do not matter while all gains are zero. Labels that contradict each other show later, in the accuracy; labels that are all reversed never do."),
            ),
        ),
        Question(
            "A reward model ranks 96 % of the held-out pairs right. What do you do before you celebrate?",
            (
                ("Fit a length rule and a bag of words on the same pairs.", True, "If they reach 90 %, too, then the pairs can be told apart without reading, and the 96 % may be just that."),
                ("Train for another epoch.", False, "First find out what the 96 % consist of. More training would learn a shortcut even better."),
                ("Test it on the training pairs, to see whether it has also learned those by heart.", False, "That tells you about memory. A shortcut works on training and test pairs alike."),
            ),
        ),
        Question(
            "During DPO `rewards/margins` grows, and `logps/chosen` falls steadily. What is happening?",
            (
                ("The labels are reversed, so that the model unlearns the chosen replies.", False, "The log trusts the labels, so with reversed ones it looks the same. Only reading pairs finds them. And less likely in the log means less likely: both replies fall."),
                ("The log is wrong, because a growing margin means a more likely chosen reply.", False, "The margin is a difference. It grows as long as rejected falls faster than chosen."),
                ("Both replies become less likely, rejected faster.", True, "The loss asks for a distance only. The probability goes to replies that nobody asked for, so a lower rate, a larger beta or some SFT on chosen helps."),
            ),
        ),
        Question(
            "SFT on the chosen replies keeps all rules in 78 % of the answers (70-85), DPO in 81 % (73-88), on the same messages. What do you report?",
            (
                ("That DPO is better by three points, since both were given the same messages.", False, "The same messages are what makes a paired comparison possible, and nobody has made it yet."),
                ("That the two cannot be told apart yet, and the paired difference.", True, "Compare message by message. If its interval holds 0, the cheaper one wins: simple SFT, no reference, half the tokens."),
                ("That the two are equally good, as their intervals overlap in most of their range.", False, "Overlap of two intervals decides nothing here: both had the same messages, so the paired difference must be asked."),
            ),
        ),
        Question(
            "In GRPO all four answers to a message get the reward 1. What does the message teach?",
            (
                ("Nothing: no answer was better than the group it is compared with.", True, "Every advantage is 0. If most groups are like that, take harder messages."),
                ("To answer like this more often.", False, "GRPO counts distances from the group's mean, and they are all 0."),
                ("To keep near the reference, since the rewards have no more to give.", False, "A KL term does that, with or without this group. The rewards say nothing here."),
            ),
        ),
        Question(
            "GRPO brings the share of valid JSON from 30 to 100 %, and users complain. Which number should you have watched?",
            (
                ("The loss, which must have risen meanwhile.", False, "GRPO's loss says little while the reward rises, because advantages are distances from a mean and add up to zero in each group."),
                ("The learning rate.", False, "A schedule would have changed when the answers collapsed, but it shows you nothing."),
                ("How many different answers there were, and whether they were true.", True, "The check asks for a form, so one constant answer is perfect. Counting different answers, or a check of the content, would have told you."),
            ),
        ),
        Question(
            "You can say which of two answers is better, but you could not write a better one yourself. Where do your pairs come from?",
            (
                ("From a large public set.", False, "It teaches what its annotators liked about other topics. A few hundred pairs about your own task are often worth more."),
                ("From your model's own samples, compared by you.", True, "You need to judge only, not to write. And the pairs are about what your model really does."),
                ("From a copywriter, whose texts are chosen, against your model's answers as rejected.", False, "Two writers differ in length, words and layout. The model would learn to tell them apart by that."),
            ),
        ),
    ),
    "05": (
        Question(
            "You have 5,000 chat transcripts and one week. What do you do first?",
            (
                ("Train on all of them, as a baseline.", False, "A baseline is a good idea, and cheap, but by itself it measures the dirt: refusals and copies are learned as faithfully as answers. Read first."),
                ("Let a strong model rewrite all the answers in one style, since style is what you will train.", False, "Perhaps later. Without knowing what a right answer is, nobody can say whether the rewritten ones are better."),
                ("Read a hundred of them, and write down what a right answer is.", True, "Rules, judges and labels all need that yardstick, and most kinds of fault show within the first hundred."),
            ),
        ),
        Question(
            "A rule finds 70 % of the refusals, and 99 % of what it finds are refusals. You want to drop rows without reading them. Is it usable?",
            (
                ("Yes: hardly a good row is lost, and the missed ones need another net.", True, "For dropping unread, precision counts. What it misses may be caught by a rule about the form, or by a judge."),
                ("No: nearly a third of the refusals stay in.", False, "They do stay in, and you should look for another net. But that is no reason to keep those that it finds so surely."),
                ("Only after it has been made so broad that it finds all of them, whatever else it then drops.", False, "Then good rows go, too, and nobody notices. A rule that broad is for flagging, with a person who reads."),
            ),
        ),
        Question(
            "Two rows have the same message and different categories. What are they?",
            (
                ("Copies: the message is what makes an example, so one of the two should go, say the shorter one.", False, "Which one? Dropping one at random is right half of the time, and length says nothing about it."),
                ("A conflict: at most one of the two can be right, so somebody should look.", True, "A conflict points straight at a label that may be wrong."),
                ("Two examples: both categories are possible.", False, "The model will learn to waver between the two. If both really apply, the categories need a rule for such messages."),
            ),
        ),
        Question(
            "Validation loss is excellent, and users complain. The rows were split at random. What do you suspect first?",
            (
                ("Too few epochs.", False, "More training raises what is memorised. Here the measurement is in doubt, not the training."),
                ("A learning rate that is too low for this amount of data, so that training stopped half-way.", False, "Then the training loss would be high as well, and so would the validation loss."),
                ("A tokenizer that cuts users' words into too many pieces.", False, "It would make training slower, and it would show in the validation loss as well."),
                ("The same customers, or near-copies of their messages, are on both sides.", True, "Then the validation rows ask for what training has seen. Split by customer, and keep near-copies together."),
            ),
        ),
        Question(
            "`max_length` is 128, and one row in three is longer. What does the trainer do with them?",
            (
                ("It cuts off their beginning, so that the answer is complete but the model sees less of the message.", False, "Most trainers keep the beginning. Where one can choose the side, look at what was chosen."),
                ("It usually cuts off the end, which is the answer and the token that ends it.", True, "The model never sees how such records end, and no message tells you. Count lengths with the model's own tokenizer first."),
                ("It stops with an error.", False, "If only it did. Cutting is silent."),
            ),
        ),
        Question(
            "Why must a classifier that looks for wrong labels not have seen the row that it judges?",
            (
                ("It would know the row's label by heart, right or wrong.", True, "Trained on everything, ours repeats nearly every label. Out of fold, it can only say what rows of this kind usually have."),
                ("Because the labels would then be used twice, which makes the probabilities add up to more than one.", False, "They add up to one in any case. What goes wrong is that the classifier agrees with everything that it has seen."),
                ("Only to save time.", False, "It is slower: five classifiers are trained instead of one. It is worth it."),
            ),
        ),
        Question(
            "A judge prefers the better reply in 95 % of your pairs. In all of them the better reply was shown first. What do you know?",
            (
                ("That it is good enough.", False, "A judge that always takes the first reply would have got 100 %."),
                ("That it likes short replies, since better replies are usually shorter.", False, "Nothing about length was varied here. Pad replies with empty words to find out."),
                ("Next to nothing: a judge that always takes the first reply would look even better.", True, "Show each pair in both orders. Count a verdict only if both orders agree. In this lesson's run the small model took the first reply every time."),
            ),
        ),
        Question(
            "Seven of ten messages need no escalation, and your model gets 71 % of that field right. How do you report it?",
            (
                ("As 71 % accuracy, with its interval, on the test set.", False, "True and useless: always saying \"none\" gets 70 %, and the reader cannot see it."),
                ("By how many urgent messages it caught, beside a program that always says \"none\".", True, "Choose a measure that can move, and print the baseline next to it."),
                ("Not at all: with so few urgent messages nothing can be said about this field.", False, "Thirty urgent messages are few, but they are enough to tell a model that catches none from one that catches most."),
            ),
        ),
    ),
    "06": (
        Question(
            "Your upload has the status `processed`. What do you know about your file?",
            (
                ("Its rows are valid, and the job will start as soon as there is room for it.", False, "Nobody has read a row yet. Rows are checked when the job runs, and then the job fails."),
                ("That it arrived.", True, "`processed` means stored. Check the rows yourself first: the host reads them minutes or hours later, and names one error at a time."),
                ("It has been converted to tokens.", False, "That happens when the job trains. Until then the file is bytes."),
            ),
        ),
        Question(
            "A program waits `while job.status != \"succeeded\"`. What will go wrong one day?",
            (
                ("The job fails or is cancelled, and the program waits for ever.", True, "List the states in which a job still waits or works, and stop at any other word, also at one that you have never seen."),
                ("The host forbids so many requests.", False, "A request every few seconds is normal use. Looking every millisecond would be another matter."),
                ("The status is `succeeded` before the model can be used.", False, "The model's name comes with that status. Some hosts want a deployment as well, and this line would not notice either way."),
            ),
        ),
        Question(
            "In a row of five messages one assistant message has `weight: 0`. What does the model do with it?",
            (
                ("It learns the opposite of it.", False, "That would be a preference, which DPO learns from pairs. Weight 0 takes the message out of the loss and nothing else."),
                ("It is left out, so that the messages around it follow one another.", False, "Then the customer's next message would answer something that is not there."),
                ("It reads it and does not learn to write it.", True, "It stays in the text, as context for what comes after. Only the loss looks away."),
            ),
        ),
        Question(
            "Validation loss has been rising for two epochs, training loss falls. You can score answers. Which checkpoint goes into production?",
            (
                ("The one with the lowest validation loss, since that is what this loss is for.", False, "A good rule where nothing else is known. It averages over every token, also over those that nobody cares about, and scored answers tell you more."),
                ("The last one, since it has learned the most.", False, "It has learned the most about your examples. The rising curve says that this stopped helping elsewhere."),
                ("The one with the lowest training loss.", False, "That is always the last one, however badly it does on new messages."),
                ("The one whose answers score best on messages that were kept for this choice.", True, "The curve says when to stop looking further. The answers say which one; but use other messages than those you report on."),
            ),
        ),
        Question(
            "A base answers in perfect JSON once `response_format` forces it. What is left for training to do?",
            (
                ("To make the answers come faster.", False, "Forcing a form costs little beside a step of the model, and training makes no step cheaper."),
                ("To choose the right values.", True, "The grammar knows which categories exist, not which one fits. Content has to be learned, or told in the prompt."),
                ("Nothing, since a program can now use every answer that comes back.", False, "It can read every answer. Whether the answer is right is another question, and a grammar cannot know."),
            ),
        ),
        Question(
            "A DPO job reports a loss of 0.693 in its first step, and your supervised job one of 2.9. Which has further to go?",
            (
                ("The supervised one, since its loss is four times as large.", False, "One is an average over tokens, the other over pairs. They are not in the same unit, as metres and kilograms are not."),
                ("The DPO job.", False, "It may or may not. A first loss of ln 2 says only that it starts where it measures from."),
                ("That cannot be said: one counts per token, the other per pair.", True, "ln 2 is what every DPO job starts with. A supervised loss depends on the text."),
            ),
        ),
        Question(
            "A grader pays 1 for any valid record. What will reinforcement fine-tuning teach?",
            (
                ("One record that is always valid, whatever the message says.", True, "It finds the cheapest way to the reward. Pay for the content, and look at answers while it trains."),
                ("To answer in valid records and, as a by-product, to fill them in well.", False, "Nothing in the reward asks for that. Whatever is not paid for may get worse."),
                ("Nothing, because the base already writes a valid record now and then.", False, "Now and then is enough to start with: those answers get the reward, and become more frequent."),
            ),
        ),
        Question(
            "Your tuned model's host closes in six weeks and gives no weights. What do you do this week?",
            (
                ("Ask for an exception, and write to other customers.", False, "Perhaps they give one. A plan that rests on it is no plan."),
                ("Download the training files, and have the model answer unlabelled messages as long as it does.", True, "The files train another model. The answers let you distil what you cannot take, and test what you move to."),
                ("Train the same files on another closed model of the same host.", False, "It would be closed just as fast. The next one should be one whose weights you can keep, or a prompt."),
                ("Nothing yet: six weeks are enough for one more training job.", False, "They are, for a job. The answers of the old model are the part that you cannot get later."),
            ),
        ),
    ),
}  # fmt: skip


class Quiz:
    """A section's quiz. Shows itself; `answer(1, "b")` explains one choice as text."""

    def __init__(self, questions: tuple[Question, ...]) -> None:
        self.questions = questions

    def answer(self, question: int, choice: str) -> str:
        """Explanation of a choice: question counted from 1, choice "a", "b" …"""
        if not 1 <= question <= len(self.questions):
            raise CourseError(f"there are questions 1 to {len(self.questions)}")
        choices = self.questions[question - 1].choices
        index = "abcdefgh".find(choice.strip().lower()) if choice.strip() else -1
        if not 0 <= index < len(choices):
            raise CourseError(f"question {question} has choices a to {'abcdefgh'[len(choices) - 1]}")
        _, right, why = choices[index]
        return f"{'Right.' if right else 'Not this one.'} {why}"

    def _repr_html_(self) -> str:
        parts = []
        for number, question in enumerate(self.questions, 1):
            parts.append(f"<p><b>{number}. {escaped(question.text)}</b></p>")
            for letter, (text, right, why) in zip("abcdefgh", question.choices):
                verdict = "Right." if right else "Not this one."
                parts.append(
                    f'<details style="margin-left:1.5em"><summary>{letter}) {escaped(text)}</summary>'
                    f'<p style="margin-left:1em"><b>{verdict}</b> {escaped(why)}</p></details>'
                )
        return "".join(parts)

    def __repr__(self) -> str:
        lines = []
        for number, question in enumerate(self.questions, 1):
            lines.append(f"{number}. {question.text}")
            lines += [f"   {letter}) {text}" for letter, (text, _, _) in zip("abcdefgh", question.choices)]
        return "\n".join([*lines, 'quiz("...").answer(1, "b") explains a choice.'])


def quiz(section: str) -> Quiz:
    """The quiz of a section, e.g. "02"."""
    if section not in QUIZZES:
        raise CourseError(f"no quiz for section {section!r}; there are {', '.join(QUIZZES)}")
    return Quiz(QUIZZES[section])
