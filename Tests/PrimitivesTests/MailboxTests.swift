import Glibc
import Primitives
import Testing

@Suite struct MailboxTests {
    @Test func `the descriptor is readable exactly while messages wait`() {
        let mailbox = Mailbox<Int>()
        #expect(!isReadable(mailbox.descriptor))
        mailbox.post(1)
        #expect(isReadable(mailbox.descriptor))
        mailbox.post(2)
        #expect(mailbox.take() == [1, 2])
        #expect(!isReadable(mailbox.descriptor))
        #expect(mailbox.take() == [])
        mailbox.post(3)
        #expect(isReadable(mailbox.descriptor))
        #expect(mailbox.take() == [3])
    }

    private struct Letter: Sendable {
        var sender: Int
        var number: Int
    }

    @Test func `nothing is lost and each sender's order is kept when many threads post`() async {
        let senders = 8
        let letters = 5_000
        let mailbox = Mailbox<Letter>()
        await withTaskGroup(of: Void.self) { group in
            for sender in 0..<senders {
                group.addTask {
                    for number in 0..<letters { mailbox.post(Letter(sender: sender, number: number)) }
                }
            }
            group.addTask {
                var next = [Int](repeating: 0, count: senders)
                var count = 0
                while count < senders * letters {
                    // Without a message this blocks: a lost wake-up would be a lost message.
                    waitUntilReadable(mailbox.descriptor)
                    for letter in mailbox.take() {
                        #expect(letter.number == next[letter.sender])
                        next[letter.sender] = letter.number + 1
                        count += 1
                    }
                }
                #expect(mailbox.take().isEmpty)
            }
        }
    }
}
