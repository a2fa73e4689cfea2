"""The training loop of all models over word vectors, except for lm_lstm.py."""

from torch.nn.functional import binary_cross_entropy_with_logits

from popcorn.training.session import Session


def train(session: Session) -> None:
    """Mini-batch training with AdamW, linear warm-up and decay, and gradient clipping.

    Validates after every epoch.
    """
    model = session.model
    for epoch in session.epochs():  # at most config.epochs; fewer with early stopping or a time budget
        for batch in session.batches(epoch):  # a resumed run continues where it stopped
            for attempt in session.attempts(batch):  # again, with smaller micro-batches, if memory runs out
                with attempt:
                    for inputs, labels in session.micro_batches(batch):
                        logits = model(*inputs)  # (micro-batch,)
                        loss = binary_cross_entropy_with_logits(logits, labels.to(logits), reduction="sum")
                        session.backward(loss / len(batch), logits, labels)
            session.accelerator.clip_grad_norm_(model.parameters(), session.config.max_grad_norm)
            session.optimizer.step()
            session.scheduler.step()
            session.optimizer.zero_grad()
            session.end_step()
        session.end_epoch(session.evaluate())
